//! Programs for sockets of this host: attached, adopted, replaced, removed.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::loaded_links;
use lb_common::names;
use lb_testbed::eventually::eventually;
use lb_testbed::pinned::{Fixture, names_in};
use lb_userspace::kernel::{self, LocalError, Programs};

const DEADLINE: Duration = Duration::from_secs(10);

/// Attaches; `false`: this host has no cgroup for it, and that is what is said.
fn attached(programs: &mut Programs) -> Result<bool> {
    match programs.attach_local() {
        Ok(cgroup) => {
            ensure!(cgroup.join("cgroup.procs").exists(), "{} is no cgroup", cgroup.display());
            Ok(true)
        }
        Err(error @ LocalError::NoCgroup(_)) => {
            println!("skipped: {error}");
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Link and program by pin.
fn pinned(fixture: &Fixture) -> Result<BTreeMap<String, (u32, u32)>> {
    let directory = fixture.dir().join("local");
    let ids = |name: String| {
        let link = FdLink::from(PinnedLink::from_pin(directory.join(&name))?);
        let info = link.info()?;
        Ok((name, (info.id(), info.program_id())))
    };
    names_in(&directory)?.into_iter().map(ids).collect()
}

fn all() -> Vec<String> {
    let mut names = names::PROGRAMS_LOCAL.map(String::from);
    names.sort();
    names.into()
}

/// The kernel lets go of them a moment after their last name.
fn all_end(links: &BTreeMap<String, (u32, u32)>) -> Result<()> {
    eventually("the links are gone", DEADLINE, || Ok((are_alive(links) == 0).then_some(())))
}

fn are_alive(links: &BTreeMap<String, (u32, u32)>) -> usize {
    let ids: Vec<_> = loaded_links().filter_map(|link| Some(link.ok()?.id())).collect();
    links.values().filter(|(id, _)| ids.contains(id)).count()
}

#[test]
fn links_are_adopted_with_new_programs() -> Result<()> {
    let fixture = Fixture::new()?;
    let (mut plane, _) = fixture.open()?;
    if !attached(&mut plane.programs)? {
        return Ok(());
    }
    let first = pinned(&fixture)?;
    assert_eq!(first.keys().cloned().collect::<Vec<_>>(), all());
    attached(&mut plane.programs)?;
    assert_eq!(pinned(&fixture)?, first, "attached already");
    drop(plane);
    assert_eq!(are_alive(&first), all().len(), "they outlive their process");

    let (mut plane, _) = fixture.open()?;
    attached(&mut plane.programs)?;
    let second = pinned(&fixture)?;
    for (name, (link, program)) in &second {
        let (link_before, program_before) = first.get(name).context("the same names")?;
        assert!(link == link_before && program != program_before, "{name}");
    }
    plane.programs.detach_local()?;
    assert_eq!(pinned(&fixture)?, BTreeMap::new());
    all_end(&second)?;
    // Off and on again, and once more without anything to do.
    plane.programs.detach_local()?;
    attached(&mut plane.programs)?;
    assert_eq!(are_alive(&pinned(&fixture)?), all().len());
    Ok(())
}

#[test]
fn cleanup_removes_them_and_what_is_not_ours_stays_out_of_it() -> Result<()> {
    let (fixture, other) = (Fixture::new()?, Fixture::new()?);
    let (mut plane, _) = fixture.open()?;
    let (mut beside, _) = other.open()?;
    if !attached(&mut plane.programs)? || !attached(&mut beside.programs)? {
        return Ok(());
    }
    let (ours, theirs) = (pinned(&fixture)?, pinned(&other)?);
    drop(plane);
    let report = kernel::cleanup(&fixture.dir())?;
    assert_eq!(report.links, ["the programs for sockets of this host"]);
    all_end(&ours)?;
    assert_eq!(are_alive(&theirs), all().len());
    assert!(report.left.is_empty() && !fixture.dir().exists(), "{report:?}");
    // A half-made set, as a crash leaves it.
    std::fs::remove_file(other.dir().join("local").join(names::PROGRAMS_LOCAL[3]))?;
    attached(&mut beside.programs)?;
    assert_eq!(are_alive(&pinned(&other)?), all().len());
    Ok(())
}

#[test]
fn without_services_nothing_happens_to_sockets() -> Result<()> {
    let fixture = Fixture::new()?;
    let (mut plane, _) = fixture.open()?;
    if !attached(&mut plane.programs)? {
        return Ok(());
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    assert_eq!(stream.peer_addr()?, listener.local_addr()?);
    Ok(())
}
