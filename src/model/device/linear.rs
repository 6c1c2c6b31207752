//! Linear maps on a device.

use candle_core::{DType, Device, Tensor};

use crate::model::layers::Linear;
use crate::model::matrix::Matrix;

/// y = f (W x + b) on the device: the product in the weights' type, the rest in f32.
#[derive(Debug)]
pub(super) struct DeviceLinear {
    /// `[out, in]`.
    pub(super) weight: Tensor,
    /// `[out]` in f32.
    bias: Option<Tensor>,
    pub(super) factor: f64,
}

impl DeviceLinear {
    pub(super) fn new(linear: &Linear, place: &Place) -> Result<Self, candle_core::Error> {
        Self::with_weight(None, linear, place)
    }

    /// Bytes of the weight.
    pub(super) fn bytes(&self) -> u64 {
        (self.weight.elem_count() * self.weight.dtype().size_in_bytes()) as u64
    }

    /// With a weight that is there already.
    pub(super) fn with_weight(
        weight: Option<Tensor>,
        linear: &Linear,
        place: &Place,
    ) -> Result<Self, candle_core::Error> {
        let weight = weight.map_or_else(|| place.weight(linear.weight()), Ok)?;
        let bias = linear.bias().map(|bias| place.vector(bias)).transpose()?;
        Ok(Self { weight, bias, factor: f64::from(linear.factor()) })
    }

    /// `x` `[T, in]` → `[T, out]`, both in f32.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, candle_core::Error> {
        let y = x.to_dtype(self.weight.dtype())?.matmul(&self.weight.t()?)?.to_dtype(DType::F32)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        if self.factor == 1.0 { Ok(y) } else { y * self.factor }
    }
}

/// The device, and the type of weights, keys and values there.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) device: Device,
    pub(super) dtype: DType,
}

impl Place {
    /// Unpacks a matrix and takes it to the device.
    pub(super) fn weight(&self, matrix: &Matrix) -> Result<Tensor, candle_core::Error> {
        let shape = (matrix.n_out(), matrix.n_in());
        let mut values = vec![0f32; shape.0 * shape.1];
        matrix.widen_rows(0, &mut values);
        // Narrowed on the host: half as much to carry.
        Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(self.dtype)?.to_device(&self.device)
    }

    pub(super) fn vector(&self, values: &[f32]) -> Result<Tensor, candle_core::Error> {
        Tensor::from_slice(values, values.len(), &self.device)
    }
}
