//! `plan`: what is shown before is what happens.

use lb_common::Slot;
use lb_userspace::controller::request::{BackendChange, RequestError};
use lb_userspace::data_plane::kernel::Sweep;
use lb_userspace::model::Plane;
use lb_userspace::model::plan::{Fate, Flows};

use super::harness::{A, B, C, WEB, World, address};

fn moved(before: &[Slot], after: &[Slot]) -> u64 {
    before.iter().zip(after).filter(|(before, after)| before.current() != after.current()).count() as u64
}

fn larger() -> String {
    WEB.replace("table_size = 13", "table_size = 1009")
}

/// Files that a reload could meet, one after the other.
fn files() -> Vec<String> {
    let web = larger();
    let unchecked = web.replace("check = \"tcp\"", "check = \"none\"");
    let more = |web: &str| {
        web.replace(
            "    { address = \"10.0.0.3:80\" },\n",
            "    { address = \"10.0.0.3:80\" },\n    { address = \"10.0.0.4:80\" },\n",
        )
    };
    vec![
        web.clone(),
        more(&web),
        web.replace("{ address = \"10.0.0.2:80\" }", "{ address = \"10.0.0.2:80\", weight = 300 }"),
        more(&unchecked),
        web.replace("    { address = \"10.0.0.1:80\" },\n", ""),
        web.replace("table_size", "scheduler = \"round_robin\"\ntable_size"),
        web.clone(),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_plan_changes_nothing_and_a_reload_does_what_was_shown() {
    let world = World::start(&larger()).await;
    for file in files() {
        world.kernel.take_actions();
        world.proxy.take_actions();
        let state = (world.kernel.state(), world.proxy.state());
        let status = world.handle.status().await.unwrap();
        let plan = world.handle.plan(file.clone()).await.unwrap();
        assert_eq!(
            plan,
            world.handle.plan(file.clone()).await.unwrap(),
            "the same question, the same answer"
        );
        assert_eq!((world.kernel.state(), world.proxy.state()), state, "nothing has changed");
        assert_eq!((world.kernel.take_actions(), world.proxy.take_actions()), (Vec::new(), Vec::new()));
        assert_eq!(world.handle.status().await.unwrap().pools, status.pools);

        let was_kernel = !state.0.services.is_empty();
        let before = if was_kernel { world.web() } else { Vec::new() };
        world.set_config(&file);
        let reloaded = world.handle.reload().await.unwrap();
        assert_eq!(reloaded.changes, plan.changes);
        let is_kernel = !world.kernel.state().services.is_empty();
        assert_eq!(
            plan.services.iter().any(|service| service.before != service.after),
            was_kernel != is_kernel
        );
        let shown =
            plan.pools.first().map_or((0, 0), |pool| (pool.moved.unwrap(), pool.moved_when_up.unwrap()));
        let happened = |world: &World| if was_kernel && is_kernel { moved(&before, &world.web()) } else { 0 };
        assert_eq!(shown.0, happened(&world), "at once: {file}");
        world.all_up().await;
        world.done().await;
        assert_eq!(shown.1, happened(&world), "with all up: {file}");
        if plan.changes.is_empty() {
            assert_eq!((&plan.services, &plan.pools), (&Vec::new(), &Vec::new()));
            assert_eq!(world.kernel.take_actions(), []);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_says_who_comes_and_goes_and_whose_flows_that_concerns() {
    let world = World::start(&larger()).await;
    world.kernel.set_sweep(Sweep {
        by_backend: [(world.id(A), 7), (world.id(B), 2)].into(),
        flows: 9,
        ..Sweep::default()
    });
    // A sweep is made where something is tracked.
    world.handle.backend("web".into(), address(C), BackendChange::Weight { weight: 50 }).await.unwrap();
    world.pass(std::time::Duration::from_secs(3)).await;
    let file = files()[4].replace(
        "{ address = \"10.0.0.2:80\" }",
        "{ address = \"10.0.0.2:80\", weight = 0 }, { address = \"10.0.0.4:80\" }",
    );
    let plan = world.handle.plan(file).await.unwrap();
    assert_eq!(plan.services, []);
    let [pool] = plan.pools.as_slice() else { panic!("{plan:?}") };
    assert_eq!((pool.fate, pool.slots), (Fate::Changed, Some(1009)));
    assert!(pool.moved > Some(300) && pool.moved_when_up > Some(300), "{pool:?}");
    let backends: Vec<_> =
        pool.backends.iter().map(|b| (b.address.to_string(), b.fate, b.before, b.after, b.flows)).collect();
    assert_eq!(
        backends,
        [
            (A.to_owned(), Fate::Removed, Some(100), None, Some(Flows { known: 7, exact: false })),
            (B.to_owned(), Fate::Changed, Some(100), Some(0), None),
            ("10.0.0.4:80".to_owned(), Fate::Added, None, Some(100), None),
        ],
        "the weight of {C} is the operator's, and stays"
    );

    let plan = world.handle.plan(files()[5].clone()).await.unwrap();
    let [service] = plan.services.as_slice() else { panic!("{plan:?}") };
    assert_eq!((service.before, service.after), (Some(Plane::Tc), Some(Plane::Proxy)));
    assert!(service.reason.contains("round_robin") && service.flows.is_some_and(|flows| !flows.exact));

    let bad = world.handle.plan("[[service]]\nname = 7".into()).await.unwrap_err();
    assert!(matches!(bad, RequestError::ConfigInvalid(problems) if !problems.is_empty()));
    let frozen = world.handle.plan(format!("[kernel]\nflows = 4096\n{}", larger())).await.unwrap_err();
    assert!(matches!(frozen, RequestError::ConfigInvalid(_)), "as a reload would refuse it");
}
