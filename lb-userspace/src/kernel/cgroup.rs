//! The cgroup that holds all processes that this one can see: where `/proc/self/mountinfo` has version 2 mounted.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

const MOUNTINFO: &str = "/proc/self/mountinfo";
/// CGROUP2_SUPER_MAGIC of linux/magic.h.
const MAGIC: u32 = 0x6367_7270;

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum NoCgroup {
    /// It cannot be looked for.
    #[error("{MOUNTINFO} cannot be read: {0}")]
    Unreadable(std::io::Error),
    /// It is not mounted, or hidden under another mount.
    #[error(
        "no cgroup2 file system is mounted: mount -t cgroup2 none /sys/fs/cgroup (hybrid: /sys/fs/cgroup/unified)"
    )]
    NotMounted,
}

/// Path and open directory of the topmost cgroup that is mounted.
pub(super) fn root() -> Result<(PathBuf, File), NoCgroup> {
    let table = std::fs::read(MOUNTINFO).map_err(NoCgroup::Unreadable)?;
    let open = |path: PathBuf| {
        let directory = File::open(&path).ok()?;
        // Another file system may be mounted over it.
        let found = rustix::fs::fstatfs(&directory).ok()?;
        (found.f_type as u32 == MAGIC).then_some((path, directory))
    };
    mounts(&table).into_iter().find_map(open).ok_or(NoCgroup::NotMounted)
}

/// Where version 2 is mounted, whole ones before parts of it (proc_pid_mountinfo(5)).
fn mounts(table: &[u8]) -> Vec<PathBuf> {
    let mut mounts: Vec<_> = table.split(|byte| *byte == b'\n').filter_map(mount).collect();
    mounts.sort_by_key(|(is_whole, _)| !is_whole);
    mounts.into_iter().map(|(_, path)| path).collect()
}

/// Whether a line's mount shows the whole hierarchy, and where it is; `None`: something else is mounted there.
fn mount(line: &[u8]) -> Option<(bool, PathBuf)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let (root, place) = (fields.nth(3)?, fields.next()?);
    // Optional fields end with a dash.
    fields.find(|field| *field == b"-")?;
    (fields.next()? == b"cgroup2")
        .then(|| (root == b"/", PathBuf::from(OsString::from_vec(unescaped(place)))))
}

/// The kernel writes white space and backslashes as three octal digits (`mangle_path` of fs/seq_file.c).
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_is_found_wherever_it_is() {
        let table = b"\
22 1 8:1 / / rw,relatime - ext4 /dev/root rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
40 22 0:38 /part /a\\040part rw - cgroup2 none rw
41 31 0:38 / /sys/fs/cgroup/uni\\134fied\\011\\012\\040x rw,relatime shared:5 master:2 - cgroup2 cgroup2 rw
42 22 0:38 / /plain ro - cgroup2 cgroup2 rw
43 22 0:50 / /cgroup2 rw - tmpfs cgroup2 rw
44 22 0:50
";
        let expected = ["/sys/fs/cgroup/uni\\fied\t\n x", "/plain", "/a part"].map(PathBuf::from);
        assert_eq!(mounts(table), expected);
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(unescaped(br"\04 \999\\040\"), br"\04 \999\ \");
        assert_eq!(unescaped(br"\303\244"), "ä".as_bytes());
    }
}
