//! The backward pass beside central differences of the forward pass.

use std::convert::Infallible;

use super::*;
use crate::model::slots::{AttnMass, HeadSlots, SlotVectors};
use crate::model::store::StoreNeeds;

/// By which inputs are moved.
const STEP: f64 = 1e-3;

/// Keeps keys and values of every layer and KV head, and the lengths of the gradients.
#[derive(Clone)]
struct Store {
    n_kv_heads: usize,
    states: Vec<[Vec<f32>; 2]>,
    positions: Vec<Vec<u32>>,
    norms: Vec<Vec<f32>>,
}

impl KvStore for Store {
    type Error = Infallible;

    fn needs(&self) -> StoreNeeds {
        StoreNeeds::default()
    }

    fn append(&mut self, chunk: &ChunkStates<'_>) -> Result<(), Infallible> {
        for head in 0..self.n_kv_heads {
            let [keys, values] = &mut self.states[chunk.layer * self.n_kv_heads + head];
            keys.extend(chunk.k.every(self.n_kv_heads, head).flatten());
            values.extend(chunk.v.every(self.n_kv_heads, head).flatten());
        }
        let positions = chunk.first_position..chunk.first_position + chunk.n_tokens;
        self.positions[chunk.layer].extend(positions.map(|position| position as u32));
        Ok(())
    }

    fn heads(&self, layer: usize) -> Vec<HeadSlots<'_>> {
        self.states[layer * self.n_kv_heads..][..self.n_kv_heads]
            .iter()
            .map(|[keys, values]| HeadSlots {
                keys: SlotVectors::F32(keys),
                values: SlotVectors::F32(values),
                logit_bias: None,
                positions: &self.positions[layer],
            })
            .collect()
    }

    fn attended(&mut self, _: &ChunkStates<'_>, _: AttnMass) -> Result<(), Infallible> {
        Ok(())
    }

    fn sensed(&mut self, chunk: &ChunkStates<'_>, gradient_norms: &[f32]) -> Result<(), Infallible> {
        self.norms[chunk.layer] = gradient_norms.to_vec();
        Ok(())
    }
}

/// The sum of squares of the last layer's outputs, from the first one's inputs.
fn objective(model: &Model, kernels: &Kernels, store: &Store, x: &[f32], first_position: usize) -> f64 {
    let (mut store, mut x) = (store.clone(), x.to_vec());
    for index in 0..kernels.layers.len() {
        model.layer(kernels, index, &mut x, first_position, &mut store, &mut Scratch::default()).unwrap();
    }
    x.iter().map(|x| f64::from(*x).powi(2)).sum()
}

#[test]
fn gradients_are_central_differences() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    for name in [
        "llama-gqa",
        "llama-mha",
        "llama-biases",
        "llama-llama3-rope",
        "qwen2",
        "qwen3",
        "mistral-window",
        "llama-yarn",
        "smollm3-windows",
        "granite",
        "olmo2",
        "phi3-longrope",
        "mixtral-window",
        "qwen3-moe",
        "qwen3-moe-steps",
        "gemma3",
        "gemma3-layer-types",
    ] {
        let model = Model::load(&folder.join(name)).unwrap();
        let kernels = model.differentiable().unwrap();
        let Config { n_layers, n_kv_heads, hidden_size, .. } = *model.config();
        let tokens = |n: u32, of: u32| -> Vec<u32> { (0..n).map(|i| (i * i * of + 5) % 96).collect() };
        let mut store = Store {
            n_kv_heads,
            states: vec![Default::default(); n_layers * n_kv_heads],
            positions: vec![Vec::new(); n_layers],
            norms: vec![Vec::new(); n_layers],
        };
        model.forward(&tokens(17, 7), 0, &mut store, LogitRows::None).unwrap();
        let x = model.embedded(kernels, &tokens(67, 11));
        let mut passed = store.clone();
        let gradients = model.pass_and_back(kernels, x.clone(), 17, &mut passed).unwrap();
        assert!(passed.norms.iter().all(|norms| norms.len() == 67), "{name}");
        let noise = 1e-7 * objective(&model, kernels, &store, &x, 17) / STEP;
        // Along the gradient of one token, which later ones attend to, and along a direction of its own.
        for token in [0, 30, 63, 66] {
            let row = token * hidden_size..(token + 1) * hidden_size;
            let gradient = &gradients[row.clone()];
            let other: Vec<f32> = (0..hidden_size).map(|i| ((i * i + token) as f32).sin()).collect();
            let norm = dot(gradient, gradient).sqrt();
            for direction in [gradient, &other] {
                let unit = 1.0 / dot(direction, direction).sqrt();
                let moved = |steps: f64| {
                    let by = (steps * STEP) as f32 * unit;
                    let mut x = x.clone();
                    x[row.clone()].iter_mut().zip(direction).for_each(|(x, d)| *x += by * d);
                    objective(&model, kernels, &store, &x, 17)
                };
                let between = |steps: f64| (moved(steps) - moved(-steps)) / (2.0 * steps * STEP);
                // Without the term of the third derivative, which is large where inputs are short.
                let difference = (4.0 * between(1.0) - between(2.0)) / 3.0;
                let found = f64::from(dot(gradient, direction) * unit);
                assert!(
                    (found - difference).abs() < 3e-3 * f64::from(norm) + noise,
                    "{name}, token {token}: {found} is not {difference}, of {norm}"
                );
            }
        }
    }
}
