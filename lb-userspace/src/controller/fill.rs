//! How full the kernel's flow tables are, and when that is worth a warning. Pure.

use crate::data_plane::kernel::Sweep;
use crate::model::status::TableStatus;

/// From so many percent on.
const ALARM: u64 = 80;

/// Both tables, as the last sweep found them.
pub fn tables(sweep: &Sweep) -> [TableStatus; 2] {
    let table = |name: &str, entries, capacity| TableStatus { name: name.to_owned(), entries, capacity };
    [
        table("flows", sweep.flows, sweep.flows_capacity),
        table("half_open", sweep.half_open, sweep.half_open_capacity),
    ]
}

/// What to tell of a table; `None`: there is room enough.
pub fn warning(table: &TableStatus) -> Option<String> {
    let TableStatus { name, entries, capacity } = table;
    let percent = entries.saturating_mul(100).checked_div(*capacity)?;
    let cure = match name.as_str() {
        "flows" => "raise kernel.flows, or shorten timeouts.established and timeouts.udp",
        _ => "a flood of SYNs? Else shorten timeouts.half_open",
    };
    (percent >= ALARM).then(|| {
        format!(
            "the table {name} is {percent} % full ({entries} of {capacity}); once it is full, new flows within a \
             change stay with the old backends (hint: {cure})"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_80_percent_on_there_is_a_warning() {
        let sweep = Sweep {
            flows: 799,
            flows_capacity: 1000,
            half_open: 800,
            half_open_capacity: 1000,
            ..Sweep::default()
        };
        let [flows, half_open] = tables(&sweep);
        assert_eq!(warning(&flows), None);
        assert!(warning(&half_open).unwrap().contains("half_open is 80 % full (800 of 1000)"));
        assert_eq!(tables(&Sweep::default()).each_ref().map(warning), [None, None]);
    }
}
