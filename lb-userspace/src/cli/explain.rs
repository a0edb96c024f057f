//! `sluice explain`: where a flow goes, as text.

use std::fmt::Write;

use crate::model::status::Explanation;

use super::output::plain;

/// The whole answer. Pure.
pub fn render(explanation: &Explanation) -> String {
    let Explanation { client, service, listen, plane, .. } = explanation;
    let mut text = format!("{client} -> {} ({listen}, {plane})\n", plain(service));
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {name:<9}{}", plain(&value));
        }
    };
    line("hash", explanation.hash.map(|hash| format!("{hash:#010x}")));
    line(
        "slot",
        explanation.slot.map(|slot| format!("{slot}{}", if explanation.tracked { ", tracked" } else { "" })),
    );
    line("current", explanation.current.map(|backend| backend.to_string()));
    line("fallback", explanation.fallback.map(|backend| backend.to_string()));
    line("flow", explanation.flow.clone());
    line("backend", Some(explanation.backend.map_or_else(|| "none".into(), |backend| backend.to_string())));
    line("why", Some(explanation.why.clone()));
    text
}
