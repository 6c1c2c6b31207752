//! Statistics of persistence: against references, and on dumps in which the truth was planted.

use kvscope::math::benjamini_hochberg;
use kvscope::math::covariate_fit;
use kvscope::math::group_means;
use kvscope::math::intraclass_correlation;
use kvscope::math::kendall_w;
use kvscope::math::kruskal_wallis;
use kvscope::math::mean_spearman;
use kvscope::math::variance_components;
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn table(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(numbers).collect()
}

fn close(name: &str, got: f64, expected: &Value) {
    let expected = expected.as_f64().unwrap();
    assert!((got - expected).abs() <= 1e-9 * (1.0 + expected.abs()), "{name}: {got}, reference {expected}");
}

/// `tests/fixtures/statistics/make.py` computes the same by projections and with scipy, pingouin and statsmodels.
#[test]
fn statistics_agree_with_their_references() {
    let cases: Value = serde_json::from_str(include_str!("fixtures/statistics/reference.json")).unwrap();
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let rows = table(&case["rows"]);
        let rows: Vec<&[f64]> = rows.iter().map(Vec::as_slice).collect();
        let groups: Vec<usize> = numbers(&case["groups"]).iter().map(|g| *g as usize).collect();
        let found = variance_components(&rows, &groups).unwrap();
        let expected = &case["components"];
        close("column", found.column, &expected["column"]);
        close("group", found.group, &expected["group"]);
        close("interaction", found.interaction, &expected["interaction"]);
        close("row", found.row, &expected["row"]);
        close("residual", found.residual, &expected["residual"]);

        let means = table(&case["means"]);
        for (ours, theirs) in group_means(&rows, &groups).unwrap().iter().flatten().zip(means.iter().flatten()) {
            assert!((ours - theirs).abs() < 0.051, "{ours}, reference {theirs} rounded");
        }
        let icc = intraclass_correlation(&means).unwrap();
        close("ICC(A,1)", icc.absolute, &case["icc"]["absolute"]);
        close("ICC(C,1)", icc.consistency, &case["icc"]["consistency"]);
        close("W", kendall_w(&means).unwrap(), &case["concordance"]["w"]);
        close("rho", mean_spearman(&means).unwrap(), &case["concordance"]["mean_spearman"]);

        let x = numbers(&case["x"]);
        let mut p = Vec::new();
        for (head, covariate) in case["covariate"].as_array().unwrap().iter().enumerate() {
            let values: Vec<f64> = rows.iter().map(|row| row[head]).collect();
            let test = kruskal_wallis(&values, &groups).unwrap();
            close("H", test.statistic, &case["kruskal"][head]);
            close("p", test.p, &case["p"][head]);
            p.push(test.p);
            let fit = covariate_fit(&values, &x, &groups).unwrap();
            close("slope", fit.slope.unwrap(), &covariate["slope"]);
            close("total", fit.total, &covariate["total"]);
            close("group", fit.group, &covariate["group"]);
            close("alone", fit.alone, &covariate["alone"]);
            close("within", fit.within, &covariate["within"]);
            close("group after", fit.group_after(), &covariate["group_after"]);
        }
        for (ours, theirs) in benjamini_hochberg(&p).iter().zip(case["q"].as_array().unwrap()) {
            close("q", *ours, theirs);
        }
    }
}
