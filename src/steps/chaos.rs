//! The step `chaos`: fails as a record's header asks it to, and counts how often every record was run, so that a test
//! can see that nothing ran again without need. Never acts without `--chaos`: a config that names it is refused
//! otherwise.

use super::StepContext;
use super::chaos_runs::count;
pub use super::chaos_runs::{RECORDS_COUNTED_MAX, Runs, count_in, runs};
use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::fault::Fault;
use bulkhead_core::record::{ID_HEADER, Origin, Record};
use bulkhead_core::verdict::Verdict;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use std::time::Duration;

/// The step's name.
pub const NAME: &str = "chaos";
/// How many bytes of a record's id, key or payload name it.
const NAME_BYTES_MAX: usize = 128;

/// `{ chaos = {} }`: records with the header fail as its value says, all others pass. The value is `panic`, `hang`,
/// `spin` (a hang that computes), `abort` (the process), `grow:MIB` (takes so much memory), `error` (transient), `poison`,
/// `fatal` or `slow:MS`; `:N` after it limits it to the record's first N runs.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ChaosConfig {
    /// Names this step's counts in `/chaos/runs`.
    pub label: String,
    /// The header that is obeyed.
    pub header: String,
}

impl Default for ChaosConfig {
    fn default() -> Self {
        Self { label: NAME.to_owned(), header: NAME.to_owned() }
    }
}

impl ChaosConfig {
    pub(super) fn check(&self, context: StepContext<'_>) -> Vec<String> {
        if context.chaos {
            return Vec::new();
        }
        vec!["this step breaks things on purpose; it is for tests and needs the flag --chaos".to_owned()]
    }

    pub(super) fn factory(&self) -> ChaosFactory {
        ChaosFactory { config: self.clone() }
    }
}

/// Builds the step.
#[derive(Debug)]
pub struct ChaosFactory {
    config: ChaosConfig,
}

#[derive(Debug)]
struct Chaos {
    config: ChaosConfig,
}

/// What a record asks for, and for how many of its runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wish {
    act: Act,
    runs_max: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Panic,
    Hang,
    Spin,
    Abort,
    Grow(usize),
    Error,
    Poison,
    Fatal,
    Slow(Duration),
}

impl FromStr for Wish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split(':');
        let number = |word: &str| word.parse::<u32>().map_err(|_| format!("{word} in {text} is no number"));
        let act = match words.next() {
            Some("panic") => Act::Panic,
            Some("hang") => Act::Hang,
            Some("spin") => Act::Spin,
            Some("abort") => Act::Abort,
            Some("grow") => {
                let mib = words.next().ok_or_else(|| format!("{text} names no MiB: grow:512"))?;
                Act::Grow(number(mib)? as usize)
            }
            Some("error") => Act::Error,
            Some("poison") => Act::Poison,
            Some("fatal") => Act::Fatal,
            Some("slow") => {
                let ms = words.next().ok_or_else(|| format!("{text} names no milliseconds: slow:250"))?;
                Act::Slow(Duration::from_millis(number(ms)?.into()))
            }
            _ => {
                return Err(format!(
                    "{text} is none of panic, hang, spin, abort, grow:MIB, error, poison, fatal, slow:MS"
                ));
            }
        };
        let runs_max = words.next().map_or(Ok(u32::MAX), number)?;
        match words.next() {
            None => Ok(Self { act, runs_max }),
            Some(word) => Err(format!("{word} in {text} is one word too many")),
        }
    }
}

impl StepFactory for ChaosFactory {
    fn name(&self) -> &str {
        NAME
    }

    fn build(&self) -> Result<Box<dyn Step>, Fault> {
        Ok(Box::new(Chaos { config: self.config.clone() }))
    }
}

impl Step for Chaos {
    fn run(&mut self, records: &[Record], _: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        records.iter().map(|record| self.one(record)).collect()
    }
}

impl Chaos {
    /// Counts the run, then does what the record asks for. The run counts even where it does not end.
    fn one(&self, record: &Record) -> Result<Verdict, Fault> {
        let run = count(&self.config.label, &name_of(record)).map_err(|why| Fault::fatal("chaos_uncounted", why))?;
        let Some(wish) = record.header(&self.config.header) else {
            return Ok(Verdict::one(record.clone()));
        };
        let wish = match String::from_utf8_lossy(wish).parse::<Wish>() {
            Ok(wish) => wish,
            Err(why) => return Ok(Verdict::Reject(Fault::poison("chaos_unknown", why))),
        };
        if run > wish.runs_max {
            return Ok(Verdict::one(record.clone()));
        }
        match wish.act {
            Act::Panic => panic!("chaos: the record asked for a panic (run {run})"),
            Act::Hang => loop {
                std::thread::park();
            },
            Act::Spin => loop {
                std::hint::spin_loop();
            },
            Act::Abort => std::process::abort(),
            Act::Grow(mib) => {
                // Written to, so that it is memory and not only a promise of it.
                let taken: Vec<Vec<u8>> = (0..mib).map(|_| vec![1; 1 << 20]).collect();
                Ok(Verdict::one(record.clone())).inspect(|_| drop(std::hint::black_box(taken)))
            }
            Act::Error => Err(Fault::transient("chaos_error", format_args!("the record asked for it (run {run})"))),
            Act::Fatal => Err(Fault::fatal("chaos_fatal", format_args!("the record asked for it (run {run})"))),
            Act::Poison => Ok(Verdict::Reject(Fault::poison("chaos_poison", "the record asked for it"))),
            Act::Slow(time) => {
                std::thread::sleep(time);
                Ok(Verdict::one(record.clone()))
            }
        }
    }
}

fn name_of(record: &Record) -> String {
    let bytes = record.header(ID_HEADER).or(record.key.as_ref()).map_or(record.payload(), |bytes| &bytes[..]);
    String::from_utf8_lossy(&bytes[..bytes.len().min(NAME_BYTES_MAX)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_core::fault::FaultClass;
    use bulkhead_core::record::Header;

    fn record(id: &str, wish: &str) -> Record {
        Record {
            headers: vec![Header::new(ID_HEADER, id.to_owned()), Header::new("chaos", wish.to_owned())],
            ..Record::default()
        }
    }

    fn step(label: &str) -> Box<dyn Step> {
        let config = ChaosConfig { label: label.to_owned(), ..ChaosConfig::default() };
        config.factory().build().expect("chaos needs nothing")
    }

    #[test]
    fn a_limit_ends_the_failing_and_every_run_is_counted() {
        let mut step = step("limit");
        let failing = record("a", "error:2");
        for _ in 0..2 {
            let fault = step.run(std::slice::from_ref(&failing), None).expect_err("the first two runs fail");
            assert_eq!(fault.class, FaultClass::Transient);
        }
        let passed = step.run(std::slice::from_ref(&failing), None).expect("the third passes");
        assert_eq!(passed, vec![Verdict::one(failing)]);
        assert_eq!(runs().steps["limit"]["a"], 3);
    }

    #[test]
    fn each_wish_gives_its_own_failure() {
        let mut step = step("wishes");
        let fatal = step.run(&[record("b", "fatal")], None).expect_err("fatal fails the batch");
        assert_eq!(fatal.class, FaultClass::Fatal);
        let verdicts = step.run(&[record("c", "poison"), record("d", "slow:1"), record("e", "explode")], None);
        let verdicts = verdicts.expect("poison is the record's own fault");
        assert!(matches!(&verdicts[0], Verdict::Reject(fault) if fault.code == "chaos_poison"));
        assert!(matches!(verdicts[1], Verdict::Emit(_)));
        assert!(matches!(&verdicts[2], Verdict::Reject(fault) if fault.code == "chaos_unknown"));
        let panicked = std::thread::spawn(move || step.run(&[record("f", "panic:1")], None).is_ok()).join();
        assert!(panicked.is_err());
        assert_eq!(runs().steps["wishes"]["f"], 1, "a run that panicked counts");
    }

    #[test]
    fn wishes_are_parsed_whole() {
        let slow = Wish { act: Act::Slow(Duration::from_millis(250)), runs_max: 3 };
        assert_eq!("slow:250:3".parse(), Ok(slow));
        assert_eq!("panic".parse(), Ok(Wish { act: Act::Panic, runs_max: u32::MAX }));
        for wrong in ["", "slow", "slow:x", "panic:1:2", "panic:-1", "Panic"] {
            assert!(wrong.parse::<Wish>().is_err(), "{wrong}");
        }
    }
}
