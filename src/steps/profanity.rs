//! The step `profanity`: finds bad words in one text of a record, by `rustrict`: words in other spellings, with look-alike
//! letters and spaces in between, too. Never judges what it cannot see: words of languages that rustrict does not know pass.

use super::StepContext;
use super::field::{Field, document, with_document};
use crate::config::units::Size;
use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::fault::Fault;
use bulkhead_core::record::{Origin, Record};
use bulkhead_core::verdict::Verdict;
use rustrict::{Censor, Type};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The step's name.
pub const NAME: &str = "profanity";
/// Longer texts are for other tools: the filter looks at each character many times.
const TEXT_MAX: Size = Size::mib(1);

/// `{ profanity = { field = ".text", action = "mask" } }`: what becomes of a record whose text has bad words in it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProfanityConfig {
    /// The text, in the record's JSON value.
    pub field: Field,
    /// What becomes of the record.
    #[serde(default)]
    pub action: ProfanityAction,
    /// From which severity on a word counts.
    #[serde(default)]
    pub severity: Severity,
    /// Where `action = "flag"` puts what it found: `{"profane": true, "kinds": ["profane", …]}`.
    #[serde(default = "flag_field")]
    pub flag: Field,
    /// How long the text may be, at most `"1MiB"`; a longer one is rejected unread.
    #[serde(default = "text_max")]
    pub text_max: Size,
}

fn flag_field() -> Field {
    Field::of("profanity")
}

const fn text_max() -> Size {
    Size::kib(16)
}

/// What becomes of a record with bad words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProfanityAction {
    /// It is rejected (`profanity`); the reason names the kinds of words, not the words.
    #[default]
    Reject,
    /// Letters after the first become `*`; such a text loses its accents, too.
    Mask,
    /// It is marked in the field `flag`, as are records without bad words.
    Flag,
}

/// From which severity on a word counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Every word that somebody may mind.
    Mild,
    /// Bad words.
    #[default]
    Moderate,
    /// The worst ones.
    Severe,
}

impl Severity {
    fn threshold(self) -> Type {
        let words = Type::PROFANE | Type::OFFENSIVE | Type::SEXUAL | Type::MEAN;
        words
            & match self {
                Self::Mild => Type::MILD_OR_HIGHER,
                Self::Moderate => Type::MODERATE_OR_HIGHER,
                Self::Severe => Type::SEVERE,
            }
    }
}

impl ProfanityConfig {
    pub(super) fn check(&self, _: StepContext<'_>) -> Vec<String> {
        let text_max = self.text_max;
        if (1..=TEXT_MAX.0).contains(&text_max.0) {
            return Vec::new();
        }
        vec![format!("text_max: \"{text_max}\"; \"1B\" to \"{TEXT_MAX}\" are possible")]
    }

    pub(super) fn factory(&self) -> ProfanityFactory {
        ProfanityFactory(self.clone())
    }
}

/// Builds the step.
#[derive(Debug)]
pub struct ProfanityFactory(ProfanityConfig);

#[derive(Debug)]
struct Profanity(ProfanityConfig);

impl StepFactory for ProfanityFactory {
    fn name(&self) -> &str {
        NAME
    }

    fn build(&self) -> Result<Box<dyn Step>, Fault> {
        Ok(Box::new(Profanity(self.0.clone())))
    }
}

impl Step for Profanity {
    fn run(&mut self, records: &[Record], _: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        Ok(records.iter().map(|record| self.judge(record).unwrap_or_else(Verdict::Reject)).collect())
    }
}

impl Profanity {
    fn judge(&self, record: &Record) -> Result<Verdict, Fault> {
        let ProfanityConfig { field, action, severity, flag, text_max } = &self.0;
        let mut document = document(record)?;
        let text = field.text(&document)?;
        if text.len() > text_max.bytes() {
            let why = format_args!("the text at {field} has {} bytes; at most {text_max} are looked at", text.len());
            return Err(Fault::poison("text_too_long", why));
        }
        let threshold = severity.threshold();
        let (masked, found) = Censor::from_str(text).with_censor_threshold(threshold).censor_and_analyze();
        let is_profane = found.is(threshold);
        match action {
            ProfanityAction::Reject if is_profane => {
                let why =
                    format!("the text at {field} has words that are not taken here ({})", kinds(found).join(", "));
                return Err(Fault::poison(NAME, why));
            }
            ProfanityAction::Mask if is_profane => field.set(&mut document, Value::String(masked))?,
            ProfanityAction::Reject | ProfanityAction::Mask => return Ok(Verdict::one(record.clone())),
            ProfanityAction::Flag => {
                let kinds = if is_profane { kinds(found) } else { Vec::new() };
                flag.set(&mut document, json!({ "profane": is_profane, "kinds": kinds }))?;
            }
        }
        Ok(Verdict::one(with_document(record, &document)))
    }
}

/// What kinds of words were found.
fn kinds(found: Type) -> Vec<&'static str> {
    let all =
        [("profane", Type::PROFANE), ("offensive", Type::OFFENSIVE), ("sexual", Type::SEXUAL), ("mean", Type::MEAN)];
    all.into_iter().filter(|(_, kind)| found.is(*kind)).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_core::fault::FaultClass;

    fn step(action: ProfanityAction) -> Profanity {
        Profanity(ProfanityConfig {
            field: Field::of("text"),
            action,
            severity: Severity::default(),
            flag: flag_field(),
            text_max: text_max(),
        })
    }

    fn judged(action: ProfanityAction, text: &str) -> Result<Value, Fault> {
        let record = Record { value: Some(json!({ "text": text }).to_string().into()), ..Record::default() };
        match step(action).run(&[record], None).expect("it fails for no batch").remove(0) {
            Verdict::Emit(records) => Ok(document(&records[0]).expect("JSON")),
            Verdict::Reject(fault) => Err(fault),
            Verdict::Drop(why) => panic!("dropped: {why}"),
        }
    }

    #[test]
    fn decent_texts_pass_as_they_are() {
        for text in
            ["How does the ledger work?", "Scunthorpe's assistant passed the class", "", "Käse für 3 €", "push it"]
        {
            for action in [ProfanityAction::Reject, ProfanityAction::Mask] {
                assert_eq!(judged(action, text), Ok(json!({ "text": text })), "{text}");
            }
        }
    }

    /// Spellings, look-alike letters of other alphabets, combining marks, invisible characters, spaces and dots.
    #[test]
    fn tricks_do_not_hide_bad_words() {
        for text in [
            "fuck this",
            "FUCK this",
            "f u c k this",
            "f.u.c.k this",
            "f-u-c-k this",
            "fuuuuck this",
            "fück this",
            "f\u{336}u\u{336}c\u{336}k\u{336} this",
            "ｆｕｃｋ this",
            "fu\u{200b}ck this",
            "fυck this",
            "\u{1d41f}\u{1d42e}\u{1d41c}\u{1d424} this",
            "5h1t, that is",
            "$h!t, that is",
        ] {
            let fault = judged(ProfanityAction::Reject, text).expect_err(text);
            assert_eq!((fault.class, &*fault.code), (FaultClass::Poison, NAME), "{text}");
            assert!(fault.message.contains("profane") && !fault.message.contains("this"), "{text}: {fault}");
        }
    }

    #[test]
    fn words_are_masked_or_flagged() {
        assert_eq!(
            judged(ProfanityAction::Mask, "what the fuck is a lane"),
            Ok(json!({ "text": "what the f*** is a lane" }))
        );
        let flagged = judged(ProfanityAction::Flag, "what the fuck").expect("it passes");
        assert_eq!(flagged["profanity"]["profane"], json!(true));
        assert_eq!(flagged["text"], json!("what the fuck"), "the text stays");
        let decent = judged(ProfanityAction::Flag, "hello").expect("it passes");
        assert_eq!(decent["profanity"], json!({ "profane": false, "kinds": [] }));
    }

    #[test]
    fn what_cannot_be_judged_is_rejected_by_name() {
        let run = |value: &str| {
            let record = Record { value: Some(value.to_owned().into()), ..Record::default() };
            step(ProfanityAction::Mask).run(&[record], None).expect("it fails for no batch").remove(0)
        };
        let long = json!({ "text": "a".repeat(16 * 1024 + 1) }).to_string();
        for (value, code) in [
            ("no json", "not_json"),
            ("{}", "field_missing"),
            ("{\"text\": 7}", "field_missing"),
            (&*long, "text_too_long"),
        ] {
            assert!(matches!(run(value), Verdict::Reject(fault) if fault.code == code), "{code}");
        }
    }
}
