//! From a graph's outputs to an answer: softmax, the best classes, their names. Never rounds before ranking.

use bulkhead_core::fault::Fault;
use serde::Serialize;

/// A class and how sure the model is of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranked<'a> {
    /// The class's name.
    pub label: &'a str,
    /// Its score, rounded to six decimals; 0..=1 after softmax.
    pub score: f64,
}

/// What a picture shows: its best class, and the next ones.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer<'a> {
    /// The best class's name.
    pub label: &'a str,
    /// Its score.
    pub score: f64,
    /// The best classes, best first; the first is the one above.
    pub top: Vec<Ranked<'a>>,
}

/// The best `top` classes (all, where there are fewer). Equal scores keep the labels' order.
///
/// # Errors
/// The poison fault `not_a_number` where an output is not finite; the fatal `class_count` where outputs and labels differ
/// in number.
pub fn rank<'a>(outputs: &[f32], labels: &'a [Box<str>], softmax: bool, top: usize) -> Result<Answer<'a>, Fault> {
    if outputs.len() != labels.len() || outputs.is_empty() {
        let message = format!("the model gave {} outputs for {} labels", outputs.len(), labels.len());
        return Err(Fault::fatal("class_count", message));
    }
    if let Some(index) = outputs.iter().position(|v| !v.is_finite()) {
        return Err(Fault::poison(
            "not_a_number",
            format!("the model's score of `{}` is {}", labels[index], outputs[index]),
        ));
    }
    let scores = if softmax { softmaxed(outputs) } else { outputs.iter().map(|&v| f64::from(v)).collect() };
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let ranked = |&i: &usize| Ranked { label: &labels[i], score: (scores[i] * 1e6).round() / 1e6 };
    let best = ranked(&order[0]);
    Ok(Answer { label: best.label, score: best.score, top: order.iter().take(top.max(1)).map(ranked).collect() })
}

fn softmaxed(outputs: &[f32]) -> Vec<f64> {
    let largest = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let odds: Vec<f64> = outputs.iter().map(|&v| f64::from(v - largest).exp()).collect();
    let sum: f64 = odds.iter().sum();
    odds.iter().map(|o| o / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(n: usize) -> Vec<Box<str>> {
        (0..n).map(|i| format!("class {i}").into()).collect()
    }

    #[test]
    fn names_the_best_first() {
        let labels = labels(4);
        let answer = rank(&[0.0, 3.0, 1.0, 2.0], &labels, true, 3).unwrap();
        assert_eq!(answer.label, "class 1");
        assert_eq!(answer.top.iter().map(|r| r.label).collect::<Vec<_>>(), ["class 1", "class 3", "class 2"]);
        assert!((answer.score - 0.643_914).abs() < 1e-6, "{}", answer.score);
        assert_eq!(answer.score, answer.top[0].score);
    }

    #[test]
    fn takes_scores_as_they_are_without_softmax() {
        let labels = labels(2);
        let json = serde_json::to_value(rank(&[0.25, 0.75], &labels, false, 9).unwrap()).unwrap();
        let wanted = serde_json::json!({"label": "class 1", "score": 0.75, "top": [
            {"label": "class 1", "score": 0.75}, {"label": "class 0", "score": 0.25}]});
        assert_eq!(json, wanted);
    }

    #[test]
    fn refuses_what_is_not_a_number() {
        for bad in [f32::NAN, f32::INFINITY] {
            let fault = rank(&[0.0, bad], &labels(2), true, 1).unwrap_err();
            assert_eq!((fault.class, &*fault.code), (bulkhead_core::fault::FaultClass::Poison, "not_a_number"));
            assert!(fault.message.contains("class 1"), "{fault}");
        }
        assert_eq!(rank(&[0.0], &labels(2), true, 1).unwrap_err().code, "class_count");
    }

    proptest! {
        #[test]
        fn scores_sum_to_one_and_fall(outputs in prop::collection::vec(-1e30f32..1e30, 1..40)) {
            let labels = labels(outputs.len());
            let answer = rank(&outputs, &labels, true, outputs.len()).unwrap();
            let sum: f64 = answer.top.iter().map(|r| r.score).sum();
            prop_assert!((sum - 1.0).abs() < 1e-4, "sum {sum}");
            prop_assert!(answer.top.windows(2).all(|w| w[0].score >= w[1].score));
        }
    }
}
