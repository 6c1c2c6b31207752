//! Rotary position embedding in Hugging Face's half-split order: dimension i turns with dimension i + D/2.

use rayon::prelude::*;

/// The angular frequencies of a rotary embedding, and how vectors turn by them.
///
/// Of a vector's D numbers the first R turn, R/2 pairs of them; the rest stay as they are.
///
/// Source: Su et al. 2021 (arXiv 2104.09864)
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    frequencies: Vec<f32>,
    head_dim: usize,
    lengthening: f32,
}

impl Rope {
    /// From frequencies in radians a position, `[R/2]`, of vectors of `head_dim` numbers.
    pub fn new(frequencies: Vec<f32>, head_dim: usize) -> Self {
        Self { frequencies, head_dim, lengthening: 1.0 }
    }

    /// Under which nothing turns.
    pub fn none(head_dim: usize) -> Self {
        Self::new(Vec::new(), head_dim)
    }

    /// The same, whose [`Rope::rotate`] multiplies what it turns by a factor, too.
    pub fn lengthening(self, factor: f32) -> Self {
        Self { lengthening: factor, ..self }
    }

    /// The frequencies, `[R/2]`.
    pub fn frequencies(&self) -> &[f32] {
        &self.frequencies
    }

    /// Whether every angle is a number after so many positions.
    pub fn is_finite_up_to(&self, positions: usize) -> bool {
        self.frequencies.iter().all(|frequency| (positions as f32 * frequency).is_finite())
    }

    /// Sines and cosines of every frequency after so many positions, times a factor.
    fn angles(&self, positions: f32, factor: f32) -> (Vec<f32>, Vec<f32>) {
        let turn = |frequency: &f32| {
            let (sin, cos) = (positions * frequency).sin_cos();
            (factor * sin, factor * cos)
        };
        self.frequencies.iter().map(turn).unzip()
    }

    /// Sines and cosines `[T, R/2]` of T positions from `first_position`, times what [`Rope::rotate`] multiplies by.
    pub fn tables(&self, first_position: usize, n_tokens: usize) -> (Vec<f32>, Vec<f32>) {
        let positions = first_position..first_position + n_tokens;
        let (sin, cos): (Vec<Vec<f32>>, Vec<Vec<f32>>) =
            positions.map(|position| self.angles(position as f32, self.lengthening)).unzip();
        (sin.concat(), cos.concat())
    }

    /// Rotates `x` `[T, heads, D]` in place; row t stands at position `first_position + t`.
    pub fn rotate(&self, x: &mut [f32], n_heads: usize, first_position: usize) {
        self.turn_rows(x, n_heads, |row| (first_position + row) as f32);
    }

    /// Of gradients by what [`Rope::rotate`] gave, makes those by what it was given.
    pub fn rotate_back(&self, x: &mut [f32], n_heads: usize, first_position: usize) {
        self.turn_rows(x, n_heads, |row| -((first_position + row) as f32));
    }

    fn turn_rows(&self, x: &mut [f32], n_heads: usize, positions: impl Fn(usize) -> f32 + Sync) {
        x.par_chunks_mut(n_heads * self.head_dim).enumerate().for_each(|(row, heads)| {
            self.turn_by(heads, self.angles(positions(row), self.lengthening));
        });
    }

    /// Rotates vectors `[n, D]` in place by a number of positions, and keeps their lengths; what is rotated already turns on by
    /// as many.
    pub fn turn(&self, x: &mut [f32], positions: f32) {
        self.turn_by(x, self.angles(positions, 1.0));
    }

    fn turn_by(&self, x: &mut [f32], (sin, cos): (Vec<f32>, Vec<f32>)) {
        let half = self.frequencies.len();
        for vector in x.chunks_exact_mut(self.head_dim) {
            let (low, high) = vector.split_at_mut(half);
            for i in 0..half {
                let (a, b) = (low[i], high[i]);
                low[i] = a * cos[i] - b * sin[i];
                high[i] = b * cos[i] + a * sin[i];
            }
        }
    }

    /// The mean of `n` turns of each vector `[n, D]`, in place, from `first` positions on, one position apart: the turn in the
    /// middle, with each pair of dimensions shortened by the frequency's own factor sin(n f / 2) / (n sin(f / 2)).
    pub fn turn_on_average(&self, x: &mut [f32], first: f32, n: usize) {
        self.turn(x, first + (n as f32 - 1.0) / 2.0);
        let shortened = |frequency: &f32| {
            let (half_turn, n) = (f64::from(*frequency) / 2.0, n as f64);
            let one = half_turn.sin();
            // A frequency that does not turn at all.
            if one == 0.0 { 1.0 } else { ((n * half_turn).sin() / (n * one)) as f32 }
        };
        let factors: Vec<f32> = self.frequencies.iter().map(shortened).collect();
        for vector in x.chunks_exact_mut(self.head_dim) {
            let turned = factors.iter().chain(&factors);
            vector.iter_mut().zip(turned).for_each(|(x, factor)| *x *= factor);
        }
    }
}

/// The rotary embeddings of a model's layers.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerRopes {
    kinds: Vec<Rope>,
    /// Place among the kinds, by layer.
    of_layer: Vec<usize>,
}

impl LayerRopes {
    /// Those that differ, and which of them each layer has.
    pub fn new(kinds: Vec<Rope>, of_layer: Vec<usize>) -> Self {
        Self { kinds, of_layer }
    }

    /// That of a layer.
    pub fn of(&self, layer: usize) -> &Rope {
        &self.kinds[self.of_layer[layer]]
    }

    /// All that differ.
    pub fn kinds(&self) -> &[Rope] {
        &self.kinds
    }

    /// Which of them a layer has.
    pub fn kind_of(&self, layer: usize) -> usize {
        self.of_layer[layer]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_split_rotation_by_hand() {
        // D = 4, frequencies 1 and 0.5, position 2: dimensions 0 and 2 turn by 2 rad, 1 and 3 by 1 rad.
        let rope = Rope::new(vec![1.0, 0.5], 4);
        let mut x = [9.0, 9.0, 9.0, 9.0, 1.0, 2.0, 3.0, 4.0];
        rope.rotate(&mut x, 1, 1);
        let (s2, c2, s1, c1) = (2f32.sin(), 2f32.cos(), 1f32.sin(), 1f32.cos());
        let expected = [c2 - 3.0 * s2, 2.0 * c1 - 4.0 * s1, 3.0 * c2 + s2, 4.0 * c1 + 2.0 * s1];
        for (x, y) in x[4..].iter().zip(expected) {
            assert!((x - y).abs() < 1e-6);
        }
        rope.rotate_back(&mut x, 1, 1);
        assert!(x[4..].iter().zip([1.0, 2.0, 3.0, 4.0]).all(|(x, y)| (x - y).abs() < 1e-6), "{x:?}");
    }

    #[test]
    fn what_does_not_turn_stays_and_what_does_is_lengthened_once() {
        // D = 5, of which the first two numbers turn.
        let rope = Rope::new(vec![0.5], 5).lengthening(3.0);
        let (sin, cos) = 1f32.sin_cos();
        let near = |x: &[f32], y: &[f32]| assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-5), "{x:?} {y:?}");
        let mut x = [1.0, 2.0, 7.0, 8.0, 9.0];
        rope.rotate(&mut x, 1, 2);
        near(&x, &[3.0 * (cos - 2.0 * sin), 3.0 * (2.0 * cos + sin), 7.0, 8.0, 9.0]);
        rope.turn(&mut x, -2.0);
        near(&x, &[3.0, 6.0, 7.0, 8.0, 9.0]);
        rope.turn_on_average(&mut x, 0.0, 2);
        let half = 0.25f32.cos();
        let (sin, cos) = 0.25f32.sin_cos();
        near(&x, &[half * (3.0 * cos - 6.0 * sin), half * (6.0 * cos + 3.0 * sin), 7.0, 8.0, 9.0]);
        // The gradient is that of a linear map: its transpose.
        let mut gradients = [1.0, 0.0, 1.0, 0.0, 0.0];
        rope.rotate_back(&mut gradients, 1, 2);
        let (sin, cos) = 1f32.sin_cos();
        near(&gradients, &[3.0 * cos, -3.0 * sin, 1.0, 0.0, 0.0]);
        let mut still = [1.0, 2.0];
        Rope::none(2).rotate(&mut still, 1, 9);
        assert_eq!(still, [1.0, 2.0]);
    }

    #[test]
    fn a_mean_of_turns_is_the_mean_of_each() {
        let rope = Rope::new(vec![1.0, 0.5, 0.0], 6);
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let mut wanted = [0.0; 6];
        for positions in [7.0, 8.0, 9.0] {
            let mut turned = x;
            rope.turn(&mut turned, positions);
            wanted.iter_mut().zip(turned).for_each(|(sum, x)| *sum += x / 3.0);
        }
        let mut found = x;
        rope.turn_on_average(&mut found, 7.0, 3);
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {wanted:?}");
    }
}
