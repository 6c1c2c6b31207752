//! Where the experts of a mixture lie: each in tensors of its own, or all of a layer in one.

use crate::model::weights::names::Naming;

/// A matrix of an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Part {
    Gate,
    Up,
    Down,
}

/// One expert of one layer.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct Expert {
    pub(in crate::model) layer: usize,
    pub(in crate::model) index: usize,
    /// Experts of the layer.
    pub(in crate::model) of: usize,
}

/// A tensor that holds a matrix among its rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// As stored.
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    /// The first of the rows, which are counted over all dimensions but the last.
    pub(super) first_row: usize,
}

/// Every place where checkpoints have that matrix of an expert, `[n_out, n_in]`, the most usual one first.
pub(super) fn places(
    naming: Naming,
    expert: Expert,
    part: Part,
    [n_out, n_in]: [usize; 2],
) -> impl Iterator<Item = Place> {
    let Expert { layer, index, of } = expert;
    let (own, mixtral, gguf) = match part {
        Part::Gate => ("gate_proj", "w1", "ffn_gate"),
        Part::Up => ("up_proj", "w3", "ffn_up"),
        Part::Down => ("down_proj", "w2", "ffn_down"),
    };
    let alone = |name: String| Place { name, shape: vec![n_out, n_in], first_row: 0 };
    let stacked = |name: String| Place { name, shape: vec![of, n_out, n_in], first_row: index * n_out };
    // The gate's rows, and then those of up.
    let joined = |name: String| {
        let first_row = (2 * index + usize::from(part == Part::Up)) * n_out;
        Place { name, shape: vec![of, 2 * n_out, n_in], first_row }
    };
    let [first, second, third] = match naming {
        Naming::Gguf { .. } => {
            let name = |tensor: String| format!("blk.{layer}.{tensor}.weight");
            [
                Some(stacked(name(format!("{gguf}_exps")))),
                // Files of Mixtral's first months.
                Some(alone(name(format!("{gguf}.{index}")))),
                (part != Part::Down).then(|| joined(name("ffn_gate_up_exps".into()))),
            ]
        }
        _ => {
            let name = |tensor: String| naming.stored(&format!("model.layers.{layer}.{tensor}"));
            [
                Some(alone(name(format!("mlp.experts.{index}.{own}.weight")))),
                Some(alone(name(format!("block_sparse_moe.experts.{index}.{mixtral}.weight")))),
                // As transformers 5 has them in memory, and saves them where it is told to.
                Some(match part {
                    Part::Down => stacked(name("mlp.experts.down_proj".into())),
                    _ => joined(name("mlp.experts.gate_up_proj".into())),
                }),
            ]
        }
    };
    [first, second, third].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_the_third_of_five_experts() {
        let expert = Expert { layer: 1, index: 2, of: 5 };
        let found = |naming, part, shape| {
            let of = |Place { name, shape, first_row }| format!("{name} {shape:?} {first_row}");
            places(naming, expert, part, shape).map(of).collect::<Vec<_>>()
        };
        assert_eq!(
            found(Naming::HuggingFace, Part::Up, [3, 7]),
            [
                "model.layers.1.mlp.experts.2.up_proj.weight [3, 7] 0",
                "model.layers.1.block_sparse_moe.experts.2.w3.weight [3, 7] 0",
                "model.layers.1.mlp.experts.gate_up_proj [5, 6, 7] 15",
            ]
        );
        assert_eq!(found(Naming::Headless, Part::Down, [7, 3])[2], "layers.1.mlp.experts.down_proj [5, 7, 3] 14");
        let gguf = Naming::Gguf { post_norms: false };
        assert_eq!(
            found(gguf, Part::Gate, [3, 7]),
            [
                "blk.1.ffn_gate_exps.weight [5, 3, 7] 6",
                "blk.1.ffn_gate.2.weight [3, 7] 0",
                "blk.1.ffn_gate_up_exps.weight [5, 6, 7] 12",
            ]
        );
        assert_eq!(
            found(gguf, Part::Down, [7, 3]),
            ["blk.1.ffn_down_exps.weight [5, 7, 3] 14", "blk.1.ffn_down.2.weight [7, 3] 0"]
        );
    }
}
