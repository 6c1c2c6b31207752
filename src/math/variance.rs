//! Where the variance of a two-way table with repeated rows comes from, and how well raters agree on it.

/// Variance components of a table whose rows (samples) are in groups (data sets) and whose columns (heads) are measured
/// in every row: y = mean + column + group + column x group + row within group + residual.
///
/// Estimates may be negative, as those of an unbiased estimator of a small variance are; [`Self::shares`] takes them as 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VarianceComponents {
    /// Between columns, the same in every group.
    pub column: f64,
    /// Between groups, the same for every column.
    pub group: f64,
    /// What a group does to single columns.
    pub interaction: f64,
    /// Between rows of a group, the same for every column.
    pub row: f64,
    /// What remains: rows of a group that differ in single columns.
    pub residual: f64,
}

impl VarianceComponents {
    /// The parts of the total, in the order of the fields, negative estimates taken as 0; `None` without any variance.
    pub fn shares(&self) -> Option<[f64; 5]> {
        let parts = [self.column, self.group, self.interaction, self.row, self.residual].map(|part| part.max(0.0));
        let total: f64 = parts.iter().sum();
        (total > 0.0 && total.is_finite()).then(|| parts.map(|part| part / total))
    }
}

/// Estimates the components by equating mean squares to their expectations, all effects random.
///
/// Groups may differ in size. As every row measures every column, cell sizes are proportional, so that the five sums of
/// squares are orthogonal and add up to the total whatever the sizes; the sizes n_g enter the expectations through
/// n0 = (N - Σ n_g² / N) / (G - 1) and Σ n_g² / N.
///
/// - Shape: rows `[N][H]`, groups `[N]` with values in 0..G
/// - Cost:  O(N·H)
/// - Unit:  that of the values, squared; `None` with fewer than 2 groups or columns, an empty group, no group of 2 rows,
///   or rows of different lengths
/// - Source: the analysis-of-variance method for unbalanced random models, Searle, Casella, McCulloch 1992, chapter 5
pub fn variance_components(rows: &[&[f64]], groups: &[usize]) -> Option<VarianceComponents> {
    let n_columns = rows.first()?.len();
    let means = group_means(rows, groups)?;
    let sizes = group_sizes(groups);
    let (n, n_groups, h) = (rows.len() as f64, sizes.len() as f64, n_columns as f64);
    if n_columns < 2 || sizes.len() < 2 || rows.len() <= sizes.len() {
        return None;
    }
    let weight = |group: usize| sizes[group] as f64;
    let mean_of = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let of_group: Vec<f64> = means.iter().map(|m| mean_of(m)).collect();
    let of_column: Vec<f64> =
        (0..n_columns).map(|c| means.iter().enumerate().map(|(g, m)| weight(g) * m[c]).sum::<f64>() / n).collect();
    let overall = mean_of(&of_column);

    let column: f64 = n * of_column.iter().map(|m| (m - overall).powi(2)).sum::<f64>();
    let mut group = 0.0;
    let mut interaction = 0.0;
    for (g, cells) in means.iter().enumerate() {
        group += h * weight(g) * (of_group[g] - overall).powi(2);
        let cell = |c: usize| cells[c] - of_column[c] - of_group[g] + overall;
        interaction += weight(g) * (0..n_columns).map(|c| cell(c).powi(2)).sum::<f64>();
    }
    let (mut row, mut residual) = (0.0, 0.0);
    for (values, g) in rows.iter().zip(groups) {
        let shift = mean_of(values) - of_group[*g];
        row += h * shift * shift;
        residual += values.iter().zip(&means[*g]).map(|(y, cell)| (y - cell - shift).powi(2)).sum::<f64>();
    }

    let square_sizes = sizes.iter().map(|size| (size * size) as f64).sum::<f64>() / n;
    let n0 = (n - square_sizes) / (n_groups - 1.0);
    let residual = residual / ((h - 1.0) * (n - n_groups));
    let row_mean_square = row / (n - n_groups);
    let interaction_mean_square = interaction / ((h - 1.0) * (n_groups - 1.0));
    let interaction = (interaction_mean_square - residual) / n0;
    let group_mean_square = group / (n_groups - 1.0);
    Some(VarianceComponents {
        column: (column / (h - 1.0) - square_sizes * interaction - residual) / n,
        group: (group_mean_square - row_mean_square - interaction_mean_square + residual) / (h * n0),
        interaction,
        row: (row_mean_square - residual) / h,
        residual,
    })
}

/// Rows of each group, for groups numbered from 0.
pub fn group_sizes(groups: &[usize]) -> Vec<usize> {
    let mut sizes = vec![0; groups.iter().max().map_or(0, |last| last + 1)];
    for group in groups {
        sizes[*group] += 1;
    }
    sizes
}

/// Mean row of every group; `None` without rows, with an empty group, or with rows of different lengths.
///
/// - Shape: rows `[N][H]`, groups `[N]` with values in 0..G, G ≤ N → `[G][H]`
pub fn group_means(rows: &[&[f64]], groups: &[usize]) -> Option<Vec<Vec<f64>>> {
    let n_columns = rows.first()?.len();
    let fits = rows.len() == groups.len() && rows.iter().all(|row| row.len() == n_columns);
    if !fits || groups.iter().any(|group| *group >= rows.len()) {
        return None;
    }
    let sizes = group_sizes(groups);
    let mut means = vec![vec![0.0; n_columns]; sizes.len()];
    for (row, group) in rows.iter().zip(groups) {
        for (mean, value) in means[*group].iter_mut().zip(*row) {
            *mean += value;
        }
    }
    for (mean, size) in means.iter_mut().zip(&sizes) {
        mean.iter_mut().for_each(|value| *value /= *size as f64);
    }
    sizes.iter().all(|size| *size > 0).then_some(means)
}

/// Intraclass correlations of single ratings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Icc {
    /// ICC(A,1): agreement in absolute value; a rater that is always higher lowers it.
    pub absolute: f64,
    /// ICC(C,1): consistency; what a rater adds to all targets alike does not count.
    pub consistency: f64,
}

/// ICC(A,1) and ICC(C,1) of targets (heads) that every rater (data set) has rated once.
///
/// - Shape: ratings `[k raters][n targets]`
/// - Unit:  at most 1; negative when raters agree less than chance; `None` with fewer than 2 raters or targets, or when
///   nothing varies
/// - Source: McGraw and Wong 1996, two-way model, single measures (ICC2 and ICC3 of Shrout and Fleiss 1979)
///
/// ```
/// // The second rater is always one higher. Mean squares: targets 2·(4 + 1 + 9)/2 = 14, raters 3·(1/4 + 1/4) = 1.5,
/// // error 0: 14 / 14 and 14 / (14 + 2/3 · 1.5).
/// let icc = kvscope::math::intraclass_correlation(&[vec![1.0, 2.0, 6.0], vec![2.0, 3.0, 7.0]]).unwrap();
/// assert_eq!(icc.consistency, 1.0);
/// assert!((icc.absolute - 14.0 / 15.0).abs() < 1e-12);
/// ```
pub fn intraclass_correlation(ratings: &[Vec<f64>]) -> Option<Icc> {
    let (raters, targets) = (ratings.len(), ratings.first()?.len());
    if raters < 2 || targets < 2 || ratings.iter().any(|rating| rating.len() != targets) {
        return None;
    }
    let (k, n) = (raters as f64, targets as f64);
    let of_rater: Vec<f64> = ratings.iter().map(|rating| rating.iter().sum::<f64>() / n).collect();
    let of_target: Vec<f64> = (0..targets).map(|t| ratings.iter().map(|rating| rating[t]).sum::<f64>() / k).collect();
    let overall = of_rater.iter().sum::<f64>() / k;
    let spread = |means: &[f64]| means.iter().map(|mean| (mean - overall).powi(2)).sum::<f64>();
    let between_targets = k * spread(&of_target) / (n - 1.0);
    let between_raters = n * spread(&of_rater) / (k - 1.0);
    let mut error = 0.0;
    for (rating, rater) in ratings.iter().zip(&of_rater) {
        error += rating.iter().zip(&of_target).map(|(y, target)| (y - target - rater + overall).powi(2)).sum::<f64>();
    }
    let error = error / ((n - 1.0) * (k - 1.0));
    let explained = between_targets - error;
    let total = between_targets + (k - 1.0) * error;
    let absolute_total = total + k / n * (between_raters - error);
    (total > 0.0 && absolute_total > 0.0)
        .then(|| Icc { absolute: explained / absolute_total, consistency: explained / total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_of_an_uneven_table_by_hand() {
        // Groups of 1 and 2 rows, 2 columns. Cell means: (1, 3) and (6, 4); rows of the second: (5, 3), (7, 5).
        // N = 3, Σ n² / N = 5/3, n0 = 4/3. Column means 13/3, 11/3, overall 4; group means 2 and 5.
        // Squares: column 3·(1/9 + 1/9) = 2/3; group 2·(1·4 + 2·1) = 12; interaction cells -4/3 and 2/3 each way:
        // 2·(16/9) + 2·2·(4/9) = 16/3; rows 2·(1 + 1) = 4; residual 0.
        let rows: [&[f64]; 3] = [&[1.0, 3.0], &[5.0, 3.0], &[7.0, 5.0]];
        let found = variance_components(&rows, &[0, 1, 1]).unwrap();
        let close =
            |got: f64, expected: f64| assert!((got - expected).abs() < 1e-12, "{got} for {expected}: {found:?}");
        close(found.residual, 0.0);
        close(found.row, 2.0);
        close(found.interaction, 4.0);
        // (12 - 4 - 16/3 + 0) / (2 · 4/3) = 1 and (2/3 - 5/3 · 4) / 3 = -2.
        close(found.group, 1.0);
        close(found.column, -2.0);
        let shares = found.shares().unwrap();
        for (share, expected) in shares.into_iter().zip([0.0, 1.0 / 7.0, 4.0 / 7.0, 2.0 / 7.0, 0.0]) {
            close(share, expected);
        }
    }

    #[test]
    fn tables_that_tell_nothing_have_no_components() {
        let rows: [&[f64]; 3] = [&[1.0, 3.0], &[5.0, 3.0], &[7.0, 5.0]];
        assert_eq!(variance_components(&rows, &[0, 0, 0]), None);
        assert_eq!(variance_components(&rows, &[0, 1, 2]), None);
        assert_eq!(variance_components(&rows, &[0, 2, 2]), None);
        assert_eq!(variance_components(&rows, &[0, 1]), None);
        assert_eq!(variance_components(&rows, &[0, 0, 9]), None);
        assert_eq!(variance_components(&[], &[]), None);
        let equal: [&[f64]; 4] = [&[2.0; 3]; 4];
        assert_eq!(variance_components(&equal, &[0, 0, 1, 1]).unwrap().shares(), None);
        assert_eq!(intraclass_correlation(&[vec![1.0, 1.0], vec![1.0, 1.0]]), None);
        assert_eq!(intraclass_correlation(&[vec![1.0, 2.0]]), None);
        assert_eq!(intraclass_correlation(&[vec![1.0, 2.0], vec![1.0]]), None);
    }
}
