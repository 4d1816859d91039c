//! `bulkhead topics`: the topics of a config as the log has them, and their retention changed where that is asked for. Never
//! makes a topic, and never changes anything else of one.

use crate::config::units::Period;
use bulkhead_actors::log::{Log, TopicSpec};
use std::time::Duration;

/// One line a topic; `specs` are topics with their pipelines' names. With `apply`, a topic whose retention is another than its
/// spec's is given it.
///
/// # Errors
/// The log cannot be asked, or refuses the change; which topic it was.
pub fn tell(log: &dyn Log, specs: &[(String, TopicSpec)], apply: bool) -> Result<String, String> {
    let mut told = String::new();
    for (pipeline, spec) in specs {
        let failed = |why| format!("pipeline {pipeline}: topic {}: {why}", spec.name);
        let name = &spec.name;
        let Some(info) = log.topic(name).map_err(failed)? else {
            line(&mut told, pipeline, name, "is not there yet; `bulkhead run` creates it");
            continue;
        };
        let found = log.retention(name).map_err(failed)?;
        let is = format!("{} partitions, keeps records {}", info.partitions, kept(found));
        match spec.retention {
            Some(wanted) if found != Some(wanted) && apply => {
                log.set_retention(name, wanted).map_err(failed)?;
                line(&mut told, pipeline, name, &format!("{is}; changed to {}", Period(wanted)));
            }
            Some(wanted) if found != Some(wanted) => {
                line(
                    &mut told,
                    pipeline,
                    name,
                    &format!("{is}; the config says {}: --apply changes it", Period(wanted)),
                );
            }
            _ => line(&mut told, pipeline, name, &is),
        }
    }
    Ok(told)
}

fn line(told: &mut String, pipeline: &str, topic: &str, says: &str) {
    told.push_str(&format!("{pipeline}: {topic}: {says}\n"));
}

fn kept(retention: Option<Duration>) -> String {
    retention.map_or_else(|| "for ever".to_owned(), |span| format!("for {}", Period(span)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_actors::io::embedded::{EmbeddedLog, EmbeddedOptions};

    #[test]
    fn retentions_are_told_and_changed_only_when_that_is_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = EmbeddedLog::open(folder.path(), &EmbeddedOptions::default()).expect("it opens");
        let spec = |name: &str, minutes: Option<u64>| {
            let retention = minutes.map(|minutes| Duration::from_secs(60 * minutes));
            TopicSpec { name: name.to_owned(), partitions: 1, replicas: 1, retention }
        };
        log.create_topics(&[spec("query", Some(60)), spec("answer", None)]).expect("made");
        let specs = [("query", Some(2)), ("answer", None), ("prompt", Some(2))];
        let specs = specs.map(|(name, minutes)| ("chat".to_owned(), spec(name, minutes)));
        let rest = "chat: answer: 1 partitions, keeps records for ever\nchat: prompt: is not there yet; `bulkhead run` creates it\n";
        let query = "chat: query: 1 partitions, keeps records for";
        let told = |apply| tell(&log, &specs, apply);
        assert_eq!(told(false), Ok(format!("{query} 1h; the config says 2m: --apply changes it\n{rest}")));
        assert_eq!(told(true), Ok(format!("{query} 1h; changed to 2m\n{rest}")));
        assert_eq!(told(true), Ok(format!("{query} 2m\n{rest}")));
    }
}
