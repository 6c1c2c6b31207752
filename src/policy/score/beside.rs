//! Two scores in turns: of a head's slots, a share goes to what the second one ranks highest.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::math::falling;
use crate::policy::part::{build, joined};
use crate::policy::score::{SCORES, Score};
use crate::policy::{HeadView, Needs, Params, PolicyError};

/// The share where `beside=` is typed without one.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Share {
    /// Share of the slots that go to the second score's tokens.
    share: f64,
}

impl Default for Share {
    fn default() -> Self {
        Self { share: 0.25 }
    }
}

/// Ranks by a score and by another one in turns, so that of any number of slots the share goes to the second one's tokens.
///
/// A score on queries from everywhere in a prompt hardly sees the few that ask something, nor what a copy of a long answer needs.
#[derive(Debug)]
struct Beside {
    score: Box<dyn Score>,
    beside: Box<dyn Score>,
    share: f64,
}

/// A score with the one beside it, and the parameters of both, where `beside=NAME` is typed.
///
/// - Errors: no such score; a share that is none; a share without a second score
pub(in crate::policy) fn beside(
    score: Box<dyn Score>,
    of_score: Value,
    params: &mut Params,
) -> Result<(Box<dyn Score>, Value), PolicyError> {
    let Some(name) = params.take_word("beside")? else { return Ok((score, of_score)) };
    let (second, of_second) = build(SCORES, "score", &name, params)?;
    let share: Share = params.read()?;
    if !(share.share > 0.0 && share.share < 1.0) {
        return Err(params.bad(format!("share is a share of the slots between 0 and 1, not {}", share.share)));
    }
    let of_second = joined(of_second, serde_json::json!({ "beside": name, "share": share.share }));
    Ok((Box::new(Beside { score, beside: second, share: share.share }), joined(of_score, of_second)))
}

impl Score for Beside {
    fn needs(&self) -> Needs {
        self.score.needs().and(self.beside.needs())
    }

    fn depends_on_budget(&self) -> bool {
        self.score.depends_on_budget() || self.beside.depends_on_budget()
    }

    /// The negative of the better of a token's two places in the two rankings in turns.
    fn worth(&self, view: &HeadView<'_>, budget_tokens: usize) -> Vec<f32> {
        let places = |score: &dyn Score, share: f64| {
            ranks(&score.worth(view, budget_tokens)).into_iter().map(move |rank| rank as f64 / share)
        };
        let own = places(self.score.as_ref(), 1.0 - self.share);
        own.zip(places(self.beside.as_ref(), self.share)).map(|(own, beside)| -own.min(beside) as f32).collect()
    }
}

/// The place of each number among all, from 1 for the largest; of equals the earlier one is before.
fn ranks(x: &[f32]) -> Vec<usize> {
    let mut ranks = vec![0; x.len()];
    falling(x).into_iter().enumerate().for_each(|(place, i)| ranks[i as usize] = place + 1);
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rows;
    use crate::policy;

    #[test]
    fn slots_go_to_both_in_turns_by_hand() {
        // h2o ranks five tokens by mass 3, 2, 1, 0, 4; the window, one query and no neighbours, ranks 4, 0, 1, 2, 3.
        let mass = [1.0, 2.0, 3.0, 4.0, 0.0];
        let mass_window = [8.0, 0.0, 0.0, 0.0, 0.0];
        let view = HeadView { mass: &mass, mass_window: &mass_window, ..HeadView::new(Rows::new(&[0.0; 5], 1)) };
        let kept = |parameters: &str, budget| {
            let spec = format!("h2o:recent=0{parameters}");
            let plan = policy::parse(&spec).unwrap().1.plan(&view, budget).unwrap();
            plan.slots.iter().map(|slot| slot.pivot).collect::<Vec<_>>()
        };
        assert_eq!(kept("", 3), [1, 2, 3]);
        // A third: places 3/2, 3, 9/2, 6, 15/2 by mass and 3, 6, 9 by the window: 3, 2, 4, 1 and then 0.
        let third = ",beside=window,window=1,pool=1,share=0.33333333";
        assert_eq!(kept(third, 1), [3]);
        assert_eq!(kept(third, 3), [2, 3, 4]);
        assert_eq!(kept(third, 4), [1, 2, 3, 4]);
        // Three quarters: 4, 8 by mass and 4/3, 8/3, 4 by the window.
        assert_eq!(kept(",beside=window,window=1,pool=1,share=0.75", 2), [0, 4]);
    }

    #[test]
    fn the_second_score_is_recorded_and_checked() {
        let policy = policy::parse("restkv:beside=repetition,by=gradient").unwrap().1;
        assert_eq!((&policy.params()["beside"], &policy.params()["share"]), (&"repetition".into(), &0.25.into()));
        assert!(policy.needs().repetition.is_some() && policy.needs().queries.is_some());
        assert!(policy::parse("restkv").unwrap().1.params().get("beside").is_none());
        let control =
            policy::parse("kvmerger:score=leave-one-out,beside=window").unwrap().1.control().unwrap().to_string();
        assert_eq!(policy::parse(&control).unwrap().1.params()["beside"], "window", "{control}");
        let error = |spec: &str| policy::parse(spec).unwrap_err().to_string();
        assert!(error("restkv:beside=window,share=1").contains("share of the slots"));
        assert!(error("restkv:share=0.5").contains("no parameter share"));
        assert!(error("restkv:beside=luck").contains("choose one of"));
        assert!(error("adakv:beside=recency").contains("allocation"), "{}", error("adakv:beside=recency"));
    }
}
