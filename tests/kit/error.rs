//! How far numbers are from their reference.

/// Largest difference over the largest expected magnitude.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().all(|x| x.is_finite()));
    let largest = expected.iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max);
    assert!(largest > 0.0, "the reference is all zero");
    let difference = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).fold(0.0, f64::max);
    difference / largest
}
