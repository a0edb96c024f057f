//! What was changed at run time, on disk: whole or set aside, never half, and never in the way of a start.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lb_userspace::model::Override;
use lb_userspace::state::{Damage, FILE, Saved, Snapshot, Store, decode, encode, keep};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

fn plain() -> Override {
    Override {
        pool: "web".into(),
        address: "10.0.0.1:80".parse().unwrap(),
        file: Some(100),
        weight: Some(7),
        drain: None,
        removed: false,
        leaving: None,
        ejected: None,
        ejections: 0,
    }
}

fn several() -> Vec<Override> {
    let at = |ms| Some(UNIX_EPOCH + Duration::from_millis(ms));
    let drained = Override { drain: at(1_800_000_000_123), weight: None, ..plain() };
    let address = "[2001:db8::1]:80".parse().unwrap();
    let removed = Override { removed: true, leaving: at(1_800_000_000_999), file: None, ..plain() };
    let address_too = "10.0.0.2:80".parse().unwrap();
    let ejected = Override { address: address_too, ejected: at(1_800_000_000_001), ejections: 3, ..plain() };
    vec![plain(), Override { address, ..drained }, removed, ejected]
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A directory of a test's own, and what is to be the state directory in it.
fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("var/state");
    (directory, state)
}

#[test]
fn what_is_saved_is_found_again() {
    let (_guard, state) = place();
    let mut opened = Store::open(&state);
    assert_eq!((opened.overrides, opened.problem), (Vec::new(), None));
    for overrides in [several(), vec![plain()], Vec::new(), several()] {
        opened.store.save(&overrides).unwrap();
        assert_eq!(names(&state), [FILE], "nothing but the file");
        drop(opened.store);
        opened = Store::open(&state);
        assert_eq!((opened.overrides, opened.problem), (overrides, None));
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&opened.store.file())), (0o700, 0o600));
}

#[test]
fn every_truncation_and_every_flipped_bit_is_noticed() {
    let bytes = encode(&several()).unwrap();
    assert_eq!(decode(&bytes).unwrap(), several());
    for length in 0..bytes.len() {
        assert!(decode(&bytes[..length]).is_err(), "{length} bytes of {}", bytes.len());
    }
    for index in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[index] ^= 1 << bit;
            assert!(decode(&damaged).is_err(), "bit {bit} of byte {index}");
        }
    }
    let longer = [bytes.as_slice(), b"\n"].concat();
    assert!(matches!(decode(&longer), Err(Damage::Digest)));
    let text = String::from_utf8(bytes).unwrap();
    let foreign = text.replacen(" 1 ", " 2 ", 1);
    assert!(matches!(decode(foreign.as_bytes()), Err(Damage::Version(version)) if version == "2"));
}

fn address() -> impl Strategy<Value = std::net::SocketAddr> {
    any::<(std::net::IpAddr, u16)>().prop_map(Into::into)
}

prop_compose! {
    fn change()(
        pool in ".*",
        address in address(),
        file in any::<Option<u16>>(),
        weight in any::<Option<u16>>(),
        drain in proptest::option::of(0..4_000_000_000_000_u64),
        removed in any::<bool>(),
        leaving in proptest::option::of(0..4_000_000_000_000_u64),
        ejected in proptest::option::of(0..4_000_000_000_000_u64),
        ejections in any::<u32>(),
    ) -> Override {
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        let (drain, leaving, ejected) = (drain.map(at), leaving.map(at), ejected.map(at));
        Override { pool, address, file, weight, drain, removed, leaving, ejected, ejections }
    }
}

proptest! {
    #[test]
    fn any_changes_come_back_as_they_were(overrides in proptest::collection::vec(change(), 0..20)) {
        prop_assert_eq!(decode(&encode(&overrides).unwrap()).unwrap(), overrides);
    }

    #[test]
    fn whatever_bytes_there_are_nothing_breaks(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(decode(&bytes).is_err());
    }
}

#[test]
fn a_damaged_file_is_set_aside_under_a_name_of_its_own_and_the_next_is_written_beside_it() {
    let (_guard, state) = place();
    Store::open(&state).store.save(&several()).unwrap();
    let good = fs::read(state.join(FILE)).unwrap();
    for number in 1..=3 {
        let damaged = &good[..good.len() - number];
        fs::write(state.join(FILE), damaged).unwrap();
        let mut opened = Store::open(&state);
        let problem = opened.problem.unwrap();
        assert!(problem.contains("digest") && problem.contains("set aside as"), "{problem}");
        assert!(opened.overrides.is_empty());
        let aside: Vec<_> = names(&state).into_iter().filter(|name| name.contains(".damaged-20")).collect();
        assert_eq!(aside.len(), number, "{aside:?}");
        assert!(aside.iter().any(|name| fs::read(state.join(name)).unwrap() == damaged));
        opened.store.save(&[plain()]).unwrap();
        drop(opened.store);
        assert_eq!(Store::open(&state).overrides, [plain()]);
    }
}

#[test]
fn what_cannot_be_read_or_trusted_is_set_aside() {
    type Make = fn(&Path);
    let cases: [(&str, Make); 5] = [
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("a link", |path| symlink("/dev/null", path).unwrap()),
        ("a FIFO, that nobody writes to", |path| {
            let status = std::process::Command::new("mkfifo").arg(path).status().unwrap();
            assert!(status.success());
        }),
        ("anybody's", |path| {
            fs::write(path, encode(&several()).unwrap()).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
        }),
        ("of another version", |path| fs::write(path, "sluice-changes 2 0\n[]").unwrap()),
    ];
    for (case, make) in cases {
        let (_guard, state) = place();
        fs::create_dir_all(&state).unwrap();
        make(&state.join(FILE));
        let opened = Store::open(&state);
        assert!(opened.overrides.is_empty(), "{case}");
        assert!(opened.problem.is_some_and(|problem| problem.contains("set aside as")), "{case}");
        assert_eq!(names(&state).len(), 1, "{case}: it is still there");
        assert!(!state.join(FILE).exists(), "{case}");
    }
}

#[test]
fn a_daemon_that_died_while_it_wrote_has_left_the_old_file() {
    let (_guard, state) = place();
    Store::open(&state).store.save(&several()).unwrap();
    fs::write(state.join("changes.new"), "sluice-chan").unwrap();
    let mut opened = Store::open(&state);
    assert_eq!((&opened.overrides, &opened.problem), (&several(), &None));
    opened.store.save(&[plain()]).unwrap();
    assert_eq!(names(&state), [FILE]);
}

#[test]
fn one_daemon_at_a_time_has_the_directory() {
    let (_guard, state) = place();
    let mut first = Store::open(&state).store;
    first.save(&several()).unwrap();
    let mut second = Store::open(&state);
    assert!(second.overrides.is_empty());
    assert!(second.problem.unwrap().contains("another sluice"));
    assert!(second.store.save(&[plain()]).unwrap_err().to_string().contains("another sluice"));
    first.save(&several()).unwrap();
    drop(first);
    // What it has not read it does not write over.
    second.store.save(&[plain()]).unwrap();
    let aside = names(&state).into_iter().find(|name| name.contains(".damaged-")).unwrap();
    assert_eq!(decode(&fs::read(state.join(aside)).unwrap()).unwrap(), several());
}

/// In place of a full disk, which takes rights: a directory that cannot be made, until it can.
#[test]
fn a_write_that_fails_says_so_and_succeeds_when_its_cause_is_gone() {
    let (guard, state) = place();
    let parent = guard.path().join("var");
    fs::write(&parent, "").unwrap();
    let mut opened = Store::open(&state);
    let problem = opened.problem.unwrap();
    assert!(problem.contains("will not survive") && problem.contains("var/state"), "{problem}");
    let error = opened.store.save(&several()).unwrap_err().to_string();
    assert!(error.contains("var/state: make"), "{error}");
    fs::remove_file(&parent).unwrap();
    opened.store.save(&several()).unwrap();
    // The directory is taken away and made anew while the daemon runs.
    fs::remove_dir_all(&state).unwrap();
    assert!(opened.store.save(&several()).is_err());
    opened.store.save(&several()).unwrap();
    drop(opened.store);
    assert_eq!(Store::open(&state).overrides, several());
}

/// A keeper over `state`, told by the sender, that says what it did.
fn keeper(
    state: &Path,
) -> (watch::Sender<Snapshot>, watch::Receiver<Saved>, CancellationToken, tokio::task::JoinHandle<()>) {
    let (sender, snapshots) = watch::channel(Snapshot::default());
    let (saves, saved) = watch::channel(Saved::default());
    let stop = CancellationToken::new();
    let task = tokio::spawn(keep(Store::open(state).store, snapshots, saves, stop.clone()));
    (sender, saved, stop, task)
}

fn snapshot(version: u64, overrides: Vec<Override>) -> Snapshot {
    Snapshot { version, overrides: Arc::new(overrides) }
}

#[tokio::test]
async fn the_keeper_writes_the_newest_and_tries_again_after_a_failure() {
    let (guard, state) = place();
    let (sender, mut saved, stop, task) = keeper(&state);
    for version in 1..=50 {
        sender.send_replace(snapshot(version, several()));
    }
    sender.send_replace(snapshot(51, vec![plain()]));
    saved.wait_for(|saved| saved.version == 51).await.unwrap();
    assert_eq!(decode(&fs::read(state.join(FILE)).unwrap()).unwrap(), [plain()]);

    // The file's place is taken: nothing can be renamed there.
    fs::remove_file(state.join(FILE)).unwrap();
    fs::create_dir_all(state.join(FILE).join("full")).unwrap();
    sender.send_replace(snapshot(52, several()));
    let failure = saved.wait_for(|saved| saved.version == 52).await.unwrap().failure.clone().unwrap();
    assert!(failure.contains("changes: replace"), "{failure}");
    fs::remove_dir_all(state.join(FILE)).unwrap();
    saved.wait_for(|saved| saved.failure.is_none()).await.unwrap();
    assert_eq!(decode(&fs::read(state.join(FILE)).unwrap()).unwrap(), several());

    sender.send_replace(snapshot(53, vec![plain()]));
    stop.cancel();
    task.await.unwrap();
    assert_eq!(decode(&fs::read(state.join(FILE)).unwrap()).unwrap(), [plain()], "the last word");
    drop(guard);
}

#[test]
fn the_time_of_a_damage_is_in_its_name() {
    let (_guard, state) = place();
    fs::create_dir_all(&state).unwrap();
    fs::write(state.join(FILE), "").unwrap();
    drop(Store::open(&state));
    let name = names(&state).remove(0);
    let time = humantime::parse_rfc3339(name.split_once(".damaged-").unwrap().1).unwrap();
    assert!(SystemTime::now().duration_since(time).unwrap() < Duration::from_secs(60));
}
