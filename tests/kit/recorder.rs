//! A store that records everything.

use std::convert::Infallible;

use kvscope::model::{AttnMass, ChunkStates, Config, HeadSlots, KvStore, SlotVectors, StoreNeeds};

/// One layer as a [`Recorder`] keeps it, by KV head: vectors `[n, D]`, masses `[n]`.
#[derive(Clone, Default)]
pub struct RecordedLayer {
    pub k: Vec<Vec<f32>>,
    pub v: Vec<Vec<f32>>,
    pub k_pre_rope: Vec<Vec<f32>>,
    pub mass: Vec<Vec<f32>>,
    pub mass_window: Vec<Vec<f32>>,
    pub positions: Vec<u32>,
    pub inputs: Vec<f32>,
}

/// A store that keeps everything the forward pass can tell.
pub struct Recorder {
    pub layers: Vec<RecordedLayer>,
    n_kv_heads: usize,
    needs: StoreNeeds,
}

impl Recorder {
    /// For a model, with the observation window starting at a position.
    pub fn new(config: &Config, mass_from_position: usize) -> Self {
        let layer = RecordedLayer {
            k: vec![Vec::new(); config.n_kv_heads],
            v: vec![Vec::new(); config.n_kv_heads],
            k_pre_rope: vec![Vec::new(); config.n_kv_heads],
            mass: vec![Vec::new(); config.n_kv_heads],
            mass_window: vec![Vec::new(); config.n_kv_heads],
            ..RecordedLayer::default()
        };
        Self {
            layers: vec![layer; config.n_layers],
            n_kv_heads: config.n_kv_heads,
            needs: StoreNeeds {
                k_pre_rope: true,
                mass: true,
                mass_from_position: Some(mass_from_position),
                inputs: true,
            },
        }
    }
}

impl KvStore for Recorder {
    type Error = Infallible;

    fn needs(&self) -> StoreNeeds {
        self.needs
    }

    fn append(&mut self, chunk: &ChunkStates<'_>) -> Result<(), Infallible> {
        let layer = &mut self.layers[chunk.layer];
        for (states, into) in
            [(chunk.k, &mut layer.k), (chunk.v, &mut layer.v), (chunk.k_pre_rope, &mut layer.k_pre_rope)]
        {
            for (head, into) in into.iter_mut().enumerate() {
                into.extend(states.every(self.n_kv_heads, head).flatten());
            }
        }
        layer.positions.extend((chunk.first_position..chunk.first_position + chunk.n_tokens).map(|p| p as u32));
        layer.inputs.extend(chunk.inputs.flat());
        Ok(())
    }

    fn heads(&self, layer: usize) -> Vec<HeadSlots<'_>> {
        let layer = &self.layers[layer];
        layer
            .k
            .iter()
            .zip(&layer.v)
            .map(|(k, v)| HeadSlots {
                keys: SlotVectors::F32(k),
                values: SlotVectors::F32(v),
                logit_bias: None,
                positions: &layer.positions,
            })
            .collect()
    }

    fn attended(&mut self, chunk: &ChunkStates<'_>, mass: AttnMass) -> Result<(), Infallible> {
        let layer = &mut self.layers[chunk.layer];
        for (sums, new) in [(&mut layer.mass, &mass.all), (&mut layer.mass_window, &mass.window)] {
            assert_eq!(new.len(), self.n_kv_heads);
            for (sum, new) in sums.iter_mut().zip(new) {
                assert_eq!(new.len(), layer.positions.len());
                sum.resize(new.len(), 0.0);
                sum.iter_mut().zip(new).for_each(|(sum, x)| *sum += x);
            }
        }
        Ok(())
    }
}
