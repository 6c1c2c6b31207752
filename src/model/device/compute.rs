//! Where a model computes, as typed: `cpu`, `cuda`, `cuda:1`, `metal`.

use candle_core::DType;
use candle_core::Device;

use crate::model::ModelError;
use crate::model::weights::first_line;

/// Where, and in which type of number, a model computes.
#[derive(Clone, Debug)]
pub enum Compute {
    /// On the CPU with this crate's kernels, in f32.
    Kernels,
    /// On any device with the tensor library's operations.
    Candle {
        /// The device; the CPU too.
        device: Device,
        /// Type of weights, and of keys and values in attention: F32, F16 or BF16.
        dtype: DType,
    },
}

impl Compute {
    /// Opens a device by name: `cpu`, `cuda`, `cuda:N` or `metal`.
    ///
    /// - Errors: [`ModelError::Device`] for another name, a device that this build or machine does not have, or another
    ///   type than f32 on the CPU
    pub fn open(name: &str, dtype: DType) -> Result<Self, ModelError> {
        let fault = |what: String, hint: &str| ModelError::Device { name: name.into(), what, hint: hint.into() };
        let (kind, index) = match name.split_once(':') {
            None => (name, Some(0)),
            Some((kind, index)) => (kind, index.parse::<usize>().ok().filter(|_| kind == "cuda")),
        };
        let Some(index) = index else {
            return Err(fault("is no device".into(), NAMES));
        };
        let (has_feature, opened) = match kind {
            "cpu" if dtype == DType::F32 => return Ok(Self::Kernels),
            "cpu" => {
                return Err(fault(format!("computes in f32, not in {}", dtype.as_str()), "use --compute-dtype f32"));
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

    /// `cpu`, `cuda f16`: what artifacts record. Which one of several equal GPUs it was does not matter.
    pub fn name(&self) -> String {
        match self {
            Self::Kernels => "cpu".into(),
            Self::Candle { device, dtype } => {
                let device = match device {
                    Device::Cpu => "candle cpu",
                    Device::Cuda(_) => "cuda",
                    Device::Metal(_) => "metal",
                };
                format!("{device} {}", dtype.as_str())
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

    fn refused(name: &str, dtype: DType) -> String {
        let error = Compute::open(name, dtype).unwrap_err();
        format!("{error}; {}", error.hint().unwrap())
    }

    #[test]
    fn devices_by_name() {
        assert_eq!(Compute::open("cpu", DType::F32).unwrap().name(), "cpu");
        assert_eq!(Compute::Candle { device: Device::Cpu, dtype: DType::F16 }.name(), "candle cpu f16");
        assert!(refused("cpu", DType::F16).contains("computes in f32, not in f16"));
        for name in ["gpu", "", "cuda:x", "cuda:", "cpu:0", "metal:0", "CUDA"] {
            assert!(refused(name, DType::F32).contains("is no device"), "{name}");
        }
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_build_without_cuda_says_how_to_get_it() {
        for name in ["cuda", "cuda:3"] {
            let told = refused(name, DType::F32);
            assert!(told.contains("is not in this build") && told.contains("--features cuda"), "{told}");
        }
    }

    #[test]
    #[cfg(not(feature = "metal"))]
    fn a_build_without_metal_says_how_to_get_it() {
        assert!(refused("metal", DType::F32).contains("--features metal"));
    }
}
