//! Sizes for many heads under one budget: the lower hull of each head's curve, and the steepest pieces first.

/// The lower convex hull of points (size, cost), given by rising size: those that no line between two others runs below.
///
/// - Cost: O(n)
/// - Source: Andrew 1979 (monotone chain)
pub(super) fn lower_hull(points: &[(usize, f64)]) -> Vec<(usize, f64)> {
    let mut hull: Vec<(usize, f64)> = Vec::with_capacity(points.len());
    for point in points {
        while let [.., a, b] = hull.as_slice() {
            // b goes when it lies on or above the line from a to the new point.
            let above = (b.1 - a.1) * (point.0 - a.0) as f64 >= (point.1 - a.1) * (b.0 - a.0) as f64;
            if !above {
                break;
            }
            hull.pop();
        }
        hull.push(*point);
    }
    hull
}

/// Sizes of all heads whose sum is exactly `total` and whose cost, read off the hulls, is least; `None` when the smallest
/// sizes are more than that already. More than the largest sizes is not given out.
///
/// This is the Lagrangian solution: every piece of a hull that saves more per unit than some price is taken. The last piece
/// is taken in part, so that at most one head stands between two points of its hull.
///
/// - Cost: O(pieces · log pieces)
/// - Source: Everett 1963 (Lagrange multipliers for resource allocation); Shoham and Gersho 1988 (hulls)
pub(super) fn allocate(hulls: &[Vec<(usize, f64)>], total: usize) -> Option<Vec<usize>> {
    let mut sizes: Vec<usize> = hulls.iter().map(|hull| hull.first().map(|point| point.0)).collect::<Option<_>>()?;
    let mut left = total.checked_sub(sizes.iter().sum())?;
    let mut pieces: Vec<(f64, usize, usize)> = Vec::new();
    for (head, hull) in hulls.iter().enumerate() {
        for pair in hull.windows(2) {
            let length = pair[1].0 - pair[0].0;
            pieces.push(((pair[1].1 - pair[0].1) / length as f64, head, length));
        }
    }
    // A stable sort: pieces of one head stay in order, and of equal ones the first head's come first.
    pieces.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (_, head, length) in pieces {
        let taken = length.min(left);
        sizes[head] += taken;
        left -= taken;
    }
    Some(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hull_by_hand() {
        // From (1, 10) to (8, 0) the line is at 10 - 10/7 (x - 1): (2, 9) above it, (4, 4) below, (6, 3) above (4, 4)-(8, 0).
        let points = [(1, 10.0), (2, 9.0), (4, 4.0), (6, 3.0), (8, 0.0)];
        assert_eq!(lower_hull(&points), [(1, 10.0), (4, 4.0), (8, 0.0)]);
        assert_eq!(lower_hull(&[(1, 2.0), (2, 1.0), (3, 0.0)]), [(1, 2.0), (3, 0.0)]);
        assert_eq!(lower_hull(&[(5, 1.0)]), [(5, 1.0)]);
    }

    /// Cost between the points of a hull.
    fn at(hull: &[(usize, f64)], size: usize) -> f64 {
        let pair = hull.windows(2).find(|pair| (pair[0].0..=pair[1].0).contains(&size)).unwrap();
        let t = (size - pair[0].0) as f64 / (pair[1].0 - pair[0].0) as f64;
        pair[0].1 + t * (pair[1].1 - pair[0].1)
    }

    #[test]
    fn no_other_sizes_cost_less() {
        let hulls = [
            lower_hull(&[(1, 9.0), (3, 4.0), (5, 3.5), (9, 0.0)]),
            lower_hull(&[(2, 30.0), (3, 2.0), (6, 1.0), (9, 0.0)]),
            lower_hull(&[(1, 1.5), (4, 1.0), (9, 0.0)]),
        ];
        for total in 4..=27 {
            let sizes = allocate(&hulls, total).unwrap();
            assert_eq!(sizes.iter().sum::<usize>(), total);
            let cost = |sizes: [usize; 3]| -> f64 { hulls.iter().zip(sizes).map(|(hull, size)| at(hull, size)).sum() };
            let mut least = f64::INFINITY;
            for a in 1..=9 {
                for b in 2..=9 {
                    if let Some(c) = total.checked_sub(a + b).filter(|c| (1..=9).contains(c)) {
                        least = least.min(cost([a, b, c]));
                    }
                }
            }
            let found = cost(sizes.try_into().unwrap());
            assert!((found - least).abs() < 1e-12, "total {total}: {found} instead of {least}");
        }
        assert_eq!(allocate(&hulls, 3), None);
        assert_eq!(allocate(&hulls, 40).unwrap(), [9, 9, 9]);
    }
}
