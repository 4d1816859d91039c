//! Which member of its group this process is; the publishers share it, so that they go on after a rejoin.
//! Never joins or leaves by itself.

use super::catalog::Epoch;
use super::store::GroupKey;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) struct Membership {
    pub(super) key: GroupKey,
    epoch: AtomicU64,
}

impl Membership {
    pub(super) const fn new(key: GroupKey, epoch: Epoch) -> Self {
        Self { key, epoch: AtomicU64::new(epoch) }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch.load(Ordering::Acquire)
    }

    /// After a rejoin.
    pub(super) fn renew(&self, epoch: Epoch) {
        self.epoch.store(epoch, Ordering::Release);
    }
}
