//! A model at work on one store: what is kept from one forward pass to the next, and the loop that decodes.

use crate::model::Model;
use crate::model::device::Mirror;
use crate::model::store::{ForwardError, KvStore, LogitRows};

/// A model, and what its device holds of the store that its passes go through.
#[derive(Debug)]
pub struct Pass<'m> {
    model: &'m Model,
    mirror: Mirror,
}

impl<'m> Pass<'m> {
    /// For one store, and no other.
    pub fn new(model: &'m Model) -> Self {
        Self { model, mirror: Mirror::default() }
    }

    /// The model.
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// Slots uploaded to a device so far, over all layers and heads; none where the kernels compute.
    pub fn uploaded_slots(&self) -> usize {
        self.mirror.uploaded_slots()
    }

    /// Runs a chunk of tokens that starts at `first_position`; keys and values go through `store`.
    ///
    /// - Shape: tokens `[T]` → logits `[rows, vocab]` in f32, empty for [`LogitRows::None`]
    /// - Errors: a token outside the vocabulary, a position beyond the model's context, states or logits that are no finite
    ///   numbers, or the store's own
    pub fn forward<S: KvStore + ?Sized>(
        &mut self,
        tokens: &[u32],
        first_position: usize,
        store: &mut S,
        rows: LogitRows,
    ) -> Result<Vec<f32>, ForwardError<S::Error>> {
        self.forward_by_layer(tokens, first_position, tokens.len(), store, rows)
    }

    /// As [`Pass::forward`], with each layer passing over all tokens, `chunk_tokens` at a time, before the next begins.
    ///
    /// A layer's keys and values are complete before the next layer's come, so a store need never hold two layers; the
    /// activations are those of one chunk, beside the residual stream of all tokens.
    pub fn forward_by_layer<S: KvStore + ?Sized>(
        &mut self,
        tokens: &[u32],
        first_position: usize,
        chunk_tokens: usize,
        store: &mut S,
        rows: LogitRows,
    ) -> Result<Vec<f32>, ForwardError<S::Error>> {
        self.model.forward_with(&mut self.mirror, tokens, first_position, chunk_tokens, store, rows)
    }

    /// As [`Pass::forward`] without logits, and back: the store is told how much the sum of squares of the last layer's outputs
    /// depends on what each layer's attention added for each token ([`KvStore::sensed`]).
    ///
    /// - Cost: about three times that of the forward pass; the inputs of all layers are kept, `[n_layers, T, hidden]`
    /// - Source: KVgrad (openreview.net/forum?id=cg1wTCJjjk)
    /// - Errors: those of [`Pass::forward`], and a device, which computes no gradients
    pub fn forward_and_back<S: KvStore + ?Sized>(
        &mut self,
        tokens: &[u32],
        first_position: usize,
        store: &mut S,
    ) -> Result<(), ForwardError<S::Error>> {
        self.model.forward_and_back(tokens, first_position, store).map(|_| ())
    }
}

/// New tokens, one after the other, behind what a store has seen: look at the logits, choose, feed.
#[derive(Debug)]
pub struct Decoding<'a, 'm, S> {
    pass: &'a mut Pass<'m>,
    store: &'a mut S,
    position: usize,
    logits: Vec<f32>,
}

impl<'a, 'm, S: KvStore> Decoding<'a, 'm, S> {
    /// Behind `position` tokens, the last of which gave `logits` `[vocab]`.
    pub fn new(pass: &'a mut Pass<'m>, store: &'a mut S, position: usize, logits: Vec<f32>) -> Self {
        Self { pass, store, position, logits }
    }

    /// Logits of the next token, `[vocab]`, to read or to change.
    pub fn logits(&mut self) -> &mut Vec<f32> {
        &mut self.logits
    }

    /// The store.
    pub fn store(&mut self) -> &mut S {
        self.store
    }

    /// Whether the model's context holds no further token.
    pub fn is_full(&self) -> bool {
        self.position >= self.pass.model.config().max_positions
    }

    /// Runs the chosen token; afterwards [`Decoding::logits`] are those behind it.
    pub fn feed(&mut self, token: u32) -> Result<(), ForwardError<S::Error>> {
        self.logits = self.pass.forward(&[token], self.position, self.store, LogitRows::Last)?;
        self.position += 1;
        Ok(())
    }
}
