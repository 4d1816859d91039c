//! By what name a record is known outside of its log: its id where it has one, else where it lies. Never the same for two
//! records, always the same for one that is worked on again.

use super::StepContext;
use bulkhead_core::fault::Fault;
use bulkhead_core::record::{ID_HEADER, Origin, Record};
use std::sync::Arc;

/// Whose records are named.
#[derive(Clone, Debug)]
pub(super) struct Place {
    topic: Arc<str>,
}

impl Place {
    pub(super) fn of(context: StepContext<'_>) -> Self {
        Self { topic: context.source.into() }
    }
}

/// The record's name.
///
/// # Errors
/// Poison: it has no id and no place in a log.
pub(super) fn identity(record: &Record, origin: Option<Origin>, place: &Place) -> Result<String, Fault> {
    if let Some(id) = record.header(ID_HEADER).and_then(|id| std::str::from_utf8(id).ok()) {
        return Ok(id.to_owned());
    }
    let Some(Origin { partition, offset, .. }) = origin else {
        return Err(Fault::poison("record_unnamed", "the record has no id, and no place in a log by which to name it"));
    };
    Ok(format!("{}/{partition}/{offset}", place.topic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_core::ids::{Offset, Partition};
    use bulkhead_core::record::Header;

    #[test]
    fn an_id_comes_before_a_place() {
        let place = Place { topic: "query".into() };
        let origin = Some(Origin { partition: Partition(2), offset: Offset(7), attempt: 1 });
        let named = Record { headers: vec![Header::new(ID_HEADER, "job-1")], ..Record::default() };
        assert_eq!(identity(&named, origin, &place).as_deref(), Ok("job-1"));
        assert_eq!(identity(&Record::default(), origin, &place).as_deref(), Ok("query/2/7"));
        assert_eq!(identity(&Record::default(), None, &place).expect_err("nothing names it").code, "record_unnamed");
    }
}
