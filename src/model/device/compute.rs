//! Where a model computes, as typed: `cpu`, `cuda`, `cuda:1`, `metal`.

use candle_core::Device;

use crate::math::Float;
use crate::model::ModelError;
use crate::model::matrix::Kernel;
use crate::model::weights::first_line;

/// How the CPU multiplies block-quantised weights (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0); all others are multiplied in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matmul {
    /// Weights unpacked to f32, activations as they are.
    F32,
    /// Activations rounded to 16 bits with a scale for every 32, at most 2⁻¹⁶ of the largest of them off; exact sums of
    /// integers within a block. About half as long, on x86-64 processors with AVX2 or AVX-512 VNNI.
    Fixed16,
}

impl Matmul {
    /// The fastest that this processor has.
    pub fn fastest() -> Self {
        if Kernel::available().next().is_some() { Self::Fixed16 } else { Self::F32 }
    }
}

/// Where, and in which type of number, a model computes.
#[derive(Clone, Debug)]
pub enum Compute {
    /// On the CPU with this crate's kernels, activations in f32.
    Kernels {
        /// How block-quantised weights are multiplied.
        matmul: Matmul,
    },
    /// On any device with the tensor library's operations.
    Candle {
        /// The device; the CPU too.
        device: Device,
        /// Type of weights, and of keys and values in attention.
        dtype: Float,
    },
}

impl Default for Compute {
    fn default() -> Self {
        Self::Kernels { matmul: Matmul::fastest() }
    }
}

impl Compute {
    /// Opens a device by name: `cpu`, `cuda`, `cuda:N` or `metal`; the CPU with its fastest arithmetic.
    ///
    /// - Errors: [`ModelError::Device`] for another name, a device that this build or machine does not have, or another
    ///   type than f32 on the CPU
    pub fn open(name: &str, dtype: Float) -> Result<Self, ModelError> {
        let fault = |what: String, hint: &str| ModelError::Device { name: name.into(), what, hint: hint.into() };
        let (kind, index) = match name.split_once(':') {
            None => (name, Some(0)),
            Some((kind, index)) => (kind, index.parse::<usize>().ok().filter(|_| kind == "cuda")),
        };
        let Some(index) = index else {
            return Err(fault("is no device".into(), NAMES));
        };
        let (has_feature, opened) = match kind {
            "cpu" if dtype == Float::F32 => return Ok(Self::default()),
            "cpu" => {
                return Err(fault(format!("computes in f32, not in {dtype}"), "use --compute-dtype f32"));
            }
            "cuda" => (cfg!(feature = "cuda"), Device::new_cuda(index)),
            "metal" => (cfg!(feature = "metal"), Device::new_metal(index)),
            _ => return Err(fault("is no device".into(), NAMES)),
        };
        match opened {
            Ok(device) => Ok(Self::Candle { device, dtype }),
            Err(_) if !has_feature => Err(fault("is not in this build".into(), how_to_build(kind))),
            Err(error) => Err(fault(format!("cannot be used: {}", first_line(&error)), how_to_find(kind))),
        }
    }

    /// The instructions for products in fixed point; `None` where products are in f32.
    ///
    /// - Errors: [`ModelError::Device`] when this processor has none
    pub(in crate::model) fn kernel(&self) -> Result<Option<Kernel>, ModelError> {
        match self {
            Self::Kernels { matmul: Matmul::Fixed16 } => {
                Kernel::available().next().map(Some).ok_or_else(|| ModelError::Device {
                    name: self.name(),
                    what: "needs a processor with AVX2, FMA and F16C".into(),
                    hint: "use --matmul f32".into(),
                })
            }
            _ => Ok(None),
        }
    }

    /// `cpu f32`, `cpu fixed16`, `cuda f16`: what artifacts record. Which one of several equal GPUs it was does not matter.
    pub fn name(&self) -> String {
        match self {
            Self::Kernels { matmul: Matmul::F32 } => "cpu f32".into(),
            Self::Kernels { matmul: Matmul::Fixed16 } => "cpu fixed16".into(),
            Self::Candle { device, dtype } => {
                let device = match device {
                    Device::Cpu => "candle cpu",
                    Device::Cuda(_) => "cuda",
                    Device::Metal(_) => "metal",
                };
                format!("{device} {dtype}")
            }
        }
    }
}

const NAMES: &str = "devices are cpu, cuda, cuda:1, cuda:2, ... and metal";

fn how_to_build(kind: &str) -> &'static str {
    if kind == "cuda" {
        "build with `cargo build --release --features cuda`, which needs NVIDIA's CUDA toolkit (nvcc), or use --device cpu"
    } else {
        "build on macOS with `cargo build --release --features metal`, or use --device cpu"
    }
}

fn how_to_find(kind: &str) -> &'static str {
    if kind == "cuda" {
        "see that `nvidia-smi` lists the GPU and that its driver is as new as the toolkit, or use --device cpu"
    } else {
        "see that this machine has a GPU that Metal supports, or use --device cpu"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::Hint;

    fn refused(name: &str, dtype: Float) -> String {
        let error = Compute::open(name, dtype).unwrap_err();
        format!("{error}; {}", error.hint().unwrap())
    }

    #[test]
    fn devices_by_name() {
        assert_eq!(Compute::Kernels { matmul: Matmul::F32 }.name(), "cpu f32");
        assert!(["cpu f32", "cpu fixed16"].contains(&&*Compute::open("cpu", Float::F32).unwrap().name()));
        assert_eq!(Compute::Candle { device: Device::Cpu, dtype: Float::F16 }.name(), "candle cpu f16");
        assert!(refused("cpu", Float::F16).contains("computes in f32, not in f16"));
        for name in ["gpu", "", "cuda:x", "cuda:", "cpu:0", "metal:0", "CUDA"] {
            assert!(refused(name, Float::F32).contains("is no device"), "{name}");
        }
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_build_without_cuda_says_how_to_get_it() {
        for name in ["cuda", "cuda:3"] {
            let told = refused(name, Float::F32);
            assert!(told.contains("is not in this build") && told.contains("--features cuda"), "{told}");
        }
    }

    #[test]
    #[cfg(not(feature = "metal"))]
    fn a_build_without_metal_says_how_to_get_it() {
        assert!(refused("metal", Float::F32).contains("--features metal"));
    }
}
