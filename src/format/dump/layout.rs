//! The tensors of a sample's file: their names, types and shapes, and their order.

use safetensors::Dtype;

use crate::format::dump::{Manifest, State};
use crate::math::Float;

impl From<Float> for Dtype {
    fn from(float: Float) -> Self {
        match float {
            Float::F16 => Self::F16,
            Float::Bf16 => Self::BF16,
            Float::F32 => Self::F32,
        }
    }
}

/// The type of floating-point number that a file's type is; `None` of others.
pub(super) fn float_of(dtype: Dtype) -> Option<Float> {
    Float::ALL.into_iter().find(|float| Dtype::from(*float) == dtype)
}

/// A tensor that a file will hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name within the file.
    pub name: String,
    /// Stored type.
    pub element: Dtype,
    /// Row-major shape.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Bytes of the data.
    pub fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * (self.element.bitsize() / 8)) as u64
    }
}

/// A tensor of a sample's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tensor {
    /// The sample's tokens, `[T]`.
    TokenIds,
    /// Positions of a layer's sampled queries, `[n_q]`.
    QueryPositions(usize),
    /// A layer's state; of [`State::Mass`] the masses over all queries.
    State(usize, State),
    /// A layer's masses over the last window of queries, `[kv_heads, T]`.
    MassWindow(usize),
}

impl Tensor {
    /// Its name in the file.
    pub fn name(self) -> String {
        match self {
            Self::TokenIds => "token_ids".into(),
            Self::QueryPositions(layer) => format!("layers.{layer}.q_positions"),
            Self::State(layer, State::Mass) => format!("layers.{layer}.attn_mass"),
            Self::State(layer, state) => format!("layers.{layer}.{}", state.name()),
            Self::MassWindow(layer) => format!("layers.{layer}.attn_mass_window"),
        }
    }
}

impl Manifest {
    /// The tensors of a file in its order: integers first, so that every tensor is aligned.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor> {
        let queried = self.states.contains(&State::Q).then_some(&self.layers);
        let positions = queried.into_iter().flatten().map(|layer| Tensor::QueryPositions(*layer));
        let of_layers = self.layers.iter().flat_map(|layer| self.layer_tensors(*layer));
        std::iter::once(Tensor::TokenIds).chain(positions).chain(of_layers)
    }

    /// The tensors of one layer's states, in the file's order.
    pub fn layer_tensors(&self, layer: usize) -> impl Iterator<Item = Tensor> {
        self.states.iter().flat_map(move |state| {
            let window = (*state == State::Mass).then_some(Tensor::MassWindow(layer));
            std::iter::once(Tensor::State(layer, *state)).chain(window)
        })
    }

    /// What a tensor is in a file of so many tokens and sampled queries.
    pub fn spec(&self, tensor: Tensor, n_tokens: usize, n_queries: usize) -> TensorSpec {
        let rows = |state, n_rows| vec![self.n_held_heads(state), n_rows, self.model.head_dim];
        let (element, shape) = match tensor {
            Tensor::TokenIds => (Dtype::I64, vec![n_tokens]),
            Tensor::QueryPositions(_) => (Dtype::I64, vec![n_queries]),
            Tensor::State(_, State::Mass) | Tensor::MassWindow(_) => {
                (Dtype::F32, vec![self.n_held_heads(State::Mass), n_tokens])
            }
            Tensor::State(_, State::Q) => (self.dtype.into(), rows(State::Q, n_queries)),
            Tensor::State(_, state) => (self.dtype.into(), rows(state, n_tokens)),
        };
        TensorSpec { name: tensor.name(), element, shape }
    }

    /// All tensors of a file of so many tokens and sampled queries, in its order.
    pub fn tensor_specs(&self, n_tokens: usize, n_queries: usize) -> Vec<TensorSpec> {
        self.tensors().map(|tensor| self.spec(tensor, n_tokens, n_queries)).collect()
    }
}
