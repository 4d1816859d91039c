//! A disk of its own for a part of a daemon's data, in a mount namespace of its own, that is nearly full of something which can be
//! removed. Never seen by any other process.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What is left beside the filler is full after about 80 MB; once it is removed there is room for what a store rewrites, too:
/// compacting takes the tables' size again, journals beside it (with 160 MB in all it could still not compact, and failed for good).
const SCRIPT: &str = r#"#!/bin/sh
exec unshare --map-root-user --mount sh -c 'mount -t tmpfs -o size=512m none PLACE &&
head -c 432M /dev/zero > PLACE/filler && exec "$0" "$@"' BINARY "$@"
"#;
const FILLER: &str = "filler";

/// See the module.
pub struct SmallDisk {
    place: PathBuf,
    /// What starts the daemon with the disk at its place.
    pub program: PathBuf,
}

impl SmallDisk {
    /// A disk at `place`, which is made, for daemons of `binary`; what starts them lies in `folder`.
    #[must_use]
    pub fn new(place: &Path, binary: &str, folder: &Path) -> Self {
        fs::create_dir_all(place).expect("a temporary folder can be made");
        let (program, text) = (folder.join("on-a-small-disk"), place.to_str().expect("a plain path"));
        fs::write(&program, SCRIPT.replace("PLACE", text).replace("BINARY", binary)).expect("it can be written");
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("it is ours");
        Self { place: place.to_owned(), program }
    }

    /// Makes room on the disk of this process.
    pub fn make_room(&self, pid: u32) {
        let filler = format!("/proc/{pid}/root{}", self.place.join(FILLER).display());
        fs::remove_file(&filler).unwrap_or_else(|error| panic!("{filler}: {error}"));
    }
}
