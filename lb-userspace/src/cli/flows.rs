//! `sluice flows`: what is remembered of flows, as text.

use crate::model::flows::{FlowEntry, FlowList};

use super::table::Align::{Left, Right};
use super::table::Table;

/// The whole list. Pure.
pub fn render(list: &FlowList) -> String {
    let mut table = Table::new([
        ("PROTO", Left),
        ("EXPIRES", Right),
        ("AGE", Right),
        ("STATE", Left),
        ("CLIENT", Left),
        ("LISTEN", Left),
        ("BACKEND", Left),
        ("SERVICE", Left),
        ("PLANE", Left),
    ]);
    for flow in &list.flows {
        let FlowEntry { protocol, state, client, listen, backend, service, plane, .. } = flow;
        table.row([
            protocol.clone(),
            clock(flow.expires_s),
            clock(flow.age_s),
            state.name().into(),
            client.to_string(),
            listen.to_string(),
            backend.map_or_else(|| "-".into(), |backend| backend.to_string()),
            service.clone(),
            plane.to_string(),
        ]);
    }
    let shown = list.flows.len();
    let more = if list.matched > shown as u64 { " (--limit shows more)" } else { "" };
    format!("{}{shown} of {} shown{more}\n", table.render(""), list.matched)
}

/// Hours, minutes and seconds.
fn clock(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds else { return "-".into() };
    let whole = seconds as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes:02}:{seconds:02}")
    }
}
