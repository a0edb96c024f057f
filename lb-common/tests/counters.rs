//! The page about counters says what the code says.

use lb_common::counters::Counter;

const PAGE: &str = include_str!("../../docs/counters.md");

#[test]
fn every_counter_is_on_the_page_in_its_own_words() {
    let parts: Vec<_> = PAGE.split("\n## ").collect();
    let [_, verdicts, drops, events] = parts.as_slice() else { panic!("{} parts", parts.len()) };
    for counter in Counter::ALL {
        let row = format!("| `{}` | {} |\n", counter.name(), counter.help().trim());
        let part = match (counter.is_verdict(), counter.is_event()) {
            (true, _) => verdicts,
            (_, true) => events,
            _ => drops,
        };
        assert!(part.contains(&row), "docs/counters.md lacks: {row}");
    }
    let rows = PAGE.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, Counter::ALL.len(), "docs/counters.md has rows of no counter");
}
