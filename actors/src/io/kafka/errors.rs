//! What a Kafka error means for the caller. Never retries anything itself.

use crate::log::{LogError, PublishError};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// What can be done about an error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The cluster is away, moving or busy: the same call may pass later.
    Passing,
    /// This client can do no more: another must take its place.
    Dead,
    /// The membership moved on: what was to be committed under it is void, and may be done again.
    Moved,
    /// The cluster refuses this one record, whoever sends it.
    Record,
    /// The cluster refuses for good: configuration, authorisation, a topic that does not exist.
    Final,
}

/// Sorts an error code. What is not known is final: a loop around an unknown error would hide it.
pub(super) fn class(code: Code) -> Class {
    match code {
        _ if is_passing(code) => Class::Passing,
        Code::Fatal
        | Code::Fenced
        | Code::FencedInstanceId
        | Code::UnreleasedInstanceId
        | Code::ProducerFenced
        | Code::InvalidProducerEpoch
        | Code::InvalidProducerIdMapping
        | Code::InvalidTransactionalState
        | Code::TransactionCoordinatorFenced
        | Code::UnknownProducerId
        | Code::OutOfOrderSequenceNumber
        | Code::Inconsistent
        | Code::GaplessGuarantee => Class::Dead,
        Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::RebalanceInProgress
        | Code::AssignmentLost
        | Code::MemberIdRequired
        | Code::FencedMemberEpoch => Class::Moved,
        Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::InvalidMessageSize
        | Code::InvalidRecord
        | Code::InvalidTimestamp
        | Code::InvalidMessage
        | Code::BadMessage
        | Code::UnsupportedForMessageFormat
        | Code::PolicyViolation => Class::Record,
        _ => Class::Final,
    }
}

/// The world's fault: the same call may succeed later.
const fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::Resolve
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::MessageTimedOut
            | Code::TimedOutQueue
            | Code::WaitingForCoordinator
            | Code::WaitCache
            | Code::InProgress
            | Code::PreviousInProgress
            | Code::QueueFull
            | Code::ISRInsufficient
            | Code::Retry
            | Code::Outdated
            | Code::State
            | Code::BrokerDestroy
            | Code::DestroyBroker
            | Code::UnknownBroker
            | Code::Interrupted
            | Code::Partial
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::RequestTimedOut
            | Code::BrokerNotAvailable
            | Code::ReplicaNotAvailable
            | Code::NetworkException
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::NotController
            | Code::ConcurrentTransactions
            | Code::KafkaStorageError
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::OffsetNotAvailable
            | Code::StaleBrokerEpoch
            | Code::PreferredLeaderNotAvailable
            | Code::UnstableOffsetCommit
            | Code::ThrottlingQuotaExceeded
            | Code::StaleMemberEpoch
            | Code::RebootstrapRequired
    )
}

/// An error of a call that is no part of a transaction.
pub(super) fn log_error(doing: &str, error: &KafkaError) -> LogError {
    let text = format!("{doing}: {error}");
    match error {
        KafkaError::MessageConsumptionFatal(_) => LogError::ClientDead(text),
        KafkaError::Canceled => LogError::Unavailable(text),
        KafkaError::AdminOp(code) => code_error(*code, text),
        _ => match error.rdkafka_error_code() {
            Some(code) => code_error(code, text),
            None => LogError::Refused(text),
        },
    }
}

/// The same from a bare code.
pub(super) fn code_error(code: Code, text: String) -> LogError {
    match class(code) {
        Class::Passing | Class::Moved => LogError::Unavailable(text),
        Class::Dead => LogError::ClientDead(text),
        Class::Record | Class::Final => LogError::Refused(text),
    }
}

/// What to do after a call of the transaction API failed.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Make the same call again: it goes on where it was.
    Again(String),
    /// It failed, and how is known.
    Failed(PublishError),
}

/// Sorts the error of a transaction call as `rdkafka.h` asks for: fatal, then abortable, then retriable; an error with
/// none of these marks is taken for fatal.
pub(super) fn transaction(doing: &str, error: &KafkaError) -> Verdict {
    let text = format!("{doing}: {error}");
    let KafkaError::Transaction(flags) = error else {
        // rdkafka's own flush ran before the commit and failed: no request to end the transaction was sent.
        return Verdict::Failed(PublishError::Void(text));
    };
    // "Conflicting call in progress" carries the retriable mark, but repeating this call never settles the other one.
    if flags.code() == Code::Conflict {
        Verdict::Failed(PublishError::Unknown(text))
    } else if is_refusal(flags.code()) {
        Verdict::Failed(PublishError::Fatal(text))
    } else if flags.is_fatal() {
        Verdict::Failed(PublishError::Unknown(text))
    } else if flags.txn_requires_abort() {
        Verdict::Failed(PublishError::Void(text))
    } else if flags.is_retriable() {
        Verdict::Again(text)
    } else {
        Verdict::Failed(PublishError::Unknown(text))
    }
}

/// Codes that a new producer would meet again.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::TransactionalIdAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::TopicAuthorizationFailed
            | Code::InvalidTransactionTimeout
            | Code::UnsupportedFeature
            | Code::UnsupportedVersion
            | Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::NotConfigured
    )
}

/// The error of a call outside of a transaction that a publisher made, where the outcome does not matter.
pub(super) fn publish_error(doing: &str, error: &KafkaError) -> PublishError {
    let text = format!("{doing}: {error}");
    match error.rdkafka_error_code().map_or(Class::Final, class) {
        Class::Moved => PublishError::Void(text),
        Class::Passing | Class::Dead => PublishError::Unknown(text),
        Class::Record | Class::Final => PublishError::Fatal(text),
    }
}
