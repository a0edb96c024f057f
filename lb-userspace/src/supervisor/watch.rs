//! Notices that a file has changed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks. Looking is one `stat`, and unlike inotify it sees through swapped symlinks and network
/// file systems.
const INTERVAL: Duration = Duration::from_secs(1);

/// What tells one version of a file from the next: device, inode, size, and time of the last change in ns.
type Version = (u64, u64, u64, i64, i64);

/// A file that may change.
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    known: Option<Version>,
}

impl FileWatch {
    /// The file as it is now counts as known.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), known: version(path) }
    }

    /// Returns when the file is another one than before and has been left alone for a while. A file that is
    /// gone is waited for. Cancel safe.
    pub async fn changed(&mut self) {
        let mut last = self.known;
        loop {
            tokio::time::sleep(INTERVAL).await;
            let now = version(&self.path);
            if now.is_some() && now != self.known && now == last {
                self.known = now;
                return;
            }
            last = now;
        }
    }
}

fn version(path: &Path) -> Option<Version> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_is_told_once_and_a_missing_file_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let (path, next) = (directory.path().join("config.toml"), directory.path().join("next"));
        fs::write(&path, "a").unwrap();
        let mut watch = FileWatch::new(&path);
        assert!(timeout(5 * INTERVAL, watch.changed()).await.is_err(), "nothing has changed");

        // As editors do it: another file takes the name.
        fs::write(&next, "b").unwrap();
        fs::rename(&next, &path).unwrap();
        timeout(5 * INTERVAL, watch.changed()).await.unwrap();
        assert!(timeout(5 * INTERVAL, watch.changed()).await.is_err(), "told twice");

        fs::remove_file(&path).unwrap();
        assert!(timeout(5 * INTERVAL, watch.changed()).await.is_err(), "a missing file is no config");
        fs::write(&path, "longer").unwrap();
        timeout(5 * INTERVAL, watch.changed()).await.unwrap();
    }
}
