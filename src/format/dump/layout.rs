//! The tensors of a sample's file: their names, types and shapes, and their order.

use crate::format::dump::{ElementType, Manifest, State, TensorSpec};

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
            Tensor::TokenIds => (ElementType::I64, vec![n_tokens]),
            Tensor::QueryPositions(_) => (ElementType::I64, vec![n_queries]),
            Tensor::State(_, State::Mass) | Tensor::MassWindow(_) => {
                (ElementType::F32, vec![self.n_held_heads(State::Mass), n_tokens])
            }
            Tensor::State(_, State::Q) => (self.dtype, rows(State::Q, n_queries)),
            Tensor::State(_, state) => (self.dtype, rows(state, n_tokens)),
        };
        TensorSpec { name: tensor.name(), element, shape }
    }

    /// All tensors of a file of so many tokens and sampled queries, in its order.
    pub fn tensor_specs(&self, n_tokens: usize, n_queries: usize) -> Vec<TensorSpec> {
        self.tensors().map(|tensor| self.spec(tensor, n_tokens, n_queries)).collect()
    }
}
