//! Configs that are broken in a known way, made from a good one.
//!
//! A plain module without dependencies: whoever wants to see a config refused includes it by path. The good
//! text must have at least one `[[service]]`, `[[pool]]` and `[[pool.backend]]` under headers of their own
//! (the first backend in the first pool), and values that end in the line they begin in.

/// A config that must be refused.
pub(crate) struct Mutation {
    /// What is broken.
    pub(crate) name: String,
    /// The whole text.
    pub(crate) text: String,
    /// The line that a message has to name; `None`: the file itself.
    pub(crate) line: Option<usize>,
    /// The key that this message has to name; empty: the file itself.
    pub(crate) path: String,
}

/// Some 300 broken variants of `base`, always the same.
pub(crate) fn mutations(base: &str) -> Vec<Mutation> {
    let mut all = Mutations { base: base.lines().map(str::to_owned).collect(), made: Vec::new() };
    all.unknown_keys();
    all.values();
    all.nested_values();
    all.duplicate_and_missing_keys();
    all.contradictions();
    all.syntax();
    all.whole_files();
    all.made
}

/// A table of the file: its header and its path.
#[derive(Clone, Copy)]
struct Level {
    header: &'static str,
    path: &'static str,
}

const DAEMON: Level = Level { header: "[daemon]", path: "daemon" };
const ADMIN: Level = Level { header: "[admin]", path: "admin" };
const KERNEL: Level = Level { header: "[kernel]", path: "kernel" };
const SERVICE: Level = Level { header: "[[service]]", path: "service[0]" };
const POOL: Level = Level { header: "[[pool]]", path: "pool[0]" };
const HEALTH: Level = Level { header: "[pool.health]", path: "pool[0].health" };
const OUTLIER: Level = Level { header: "[pool.outlier]", path: "pool[0].outlier" };
const BACKEND: Level = Level { header: "[[pool.backend]]", path: "pool[0].backend[0]" };
const LEVELS: [Level; 8] = [DAEMON, ADMIN, KERNEL, SERVICE, POOL, HEALTH, OUTLIER, BACKEND];

/// Values that no string takes.
const NO_TEXT: &[&str] = &["5", "true", "{}", "1.5", "1979-05-27", "[[1]]"];
/// Values that no number takes.
const NO_NUMBER: &[&str] = &["\"many\"", "true", "1.5", "[1]", "-1", "99999999999999999999999"];
/// Values that no truth value takes.
const NO_TRUTH: &[&str] = &["\"true\"", "1", "[]"];
/// Values that no duration takes.
const NO_TIME: &[&str] = &["5", "\"\"", "\"5\"", "\"-1s\"", "\"soon\"", "\"400d\"", "[\"1s\"]"];
/// Values that no address takes.
const NO_ADDRESS: &[&str] = &[
    "80",
    "\"\"",
    "\"10.0.0.1\"",
    "\"10.0.0.1:0\"",
    "\"10.0.0.1:65536\"",
    "\"10.0.0.256:80\"",
    "\"localhost:80\"",
    "\"2001:db8::1\"",
    "\"0.0.0.0:80\"",
    "\"[::]:80\"",
    "\"224.0.0.1:80\"",
    "\"255.255.255.255:80\"",
    "\"[::ffff:10.0.0.1]:80\"",
    "\"[fe80::1%eth0]:80\"",
    "\"${SLUICE_NOT_SET}:80\"",
];
/// Values that no address without a port takes.
const NO_ADDRESS_ALONE: &[&str] =
    &["80", "\"\"", "\"10.0.0.1:80\"", "\"localhost\"", "\"::\"", "\"ff02::1\"", "\"fe80::1%eth0\""];
const NO_NAME: &[&str] = &["5", "\"\"", "\"a b\"", "\"a/b\"", "\"ü\"", "\"a\\nb\""];
const NO_PATH: &[&str] = &["5", "\"\"", "\"relative/path\"", "\"/a\\u0000b\""];

/// Every key with a good value and bad ones.
const KEYS: &[(Level, &str, &str, &[&[&str]])] = &[
    (DAEMON, "state_dir", "\"/a\"", &[NO_PATH]),
    (DAEMON, "bpf_dir", "\"/a\"", &[NO_PATH]),
    (DAEMON, "log", "\"info\"", &[NO_TEXT, &["\"inof\"", "\"a=b=c\""]]),
    (DAEMON, "log_format", "\"text\"", &[NO_TEXT, &["\"xml\""]]),
    (DAEMON, "drain_timeout", "\"1s\"", &[NO_TIME]),
    (DAEMON, "drain_spread", "\"1s\"", &[NO_TIME]),
    (DAEMON, "watch", "false", &[NO_TRUTH]),
    (DAEMON, "checks_at_once", "256", &[NO_NUMBER, &["0", "65537"]]),
    (ADMIN, "socket", "\"/a\"", &[NO_PATH]),
    (ADMIN, "listen", "\"127.0.0.1:9900\"", &[NO_ADDRESS, &["\"192.0.2.1:9900\"", "\"[2001:db8::1]:9900\""]]),
    (ADMIN, "token_file", "\"/a\"", &[NO_PATH]),
    (KERNEL, "plane", "\"auto\"", &[NO_TEXT, &["\"XDP\"", "\"ebpf\"", "\"proxy\""]]),
    (KERNEL, "interfaces", "\"auto\"", &[&["5", "true", "{}", "\"eth0\"", "[]"]]),
    (KERNEL, "flows", "1024", &[NO_NUMBER, &["1023", "67108865"]]),
    (KERNEL, "backends", "1024", &[NO_NUMBER, &["1023", "131073"]]),
    (
        KERNEL,
        "hash_seed",
        "\"random\"",
        &[NO_TEXT, &["\"\"", "\"0123\"", "\"xx112233445566778899aabbccddeeff\""]],
    ),
    (SERVICE, "name", "\"s\"", &[NO_NAME]),
    (SERVICE, "listen", "\"192.0.2.1:80\"", &[NO_ADDRESS, &["[]", "true", "{}"]]),
    (SERVICE, "protocol", "\"tcp\"", &[NO_TEXT, &["\"UDP\"", "\"TCP\"", "\"sctp\""]]),
    (SERVICE, "pool", "\"p\"", &[NO_NAME, &["\"no-such-pool\""]]),
    (
        SERVICE,
        "forward",
        "\"auto\"",
        &[NO_TEXT, &["\"snat\"", "\"dsr\"", "\"ipip\"", "\"gue\"", "\"natt\"", "\"\""]],
    ),
    (SERVICE, "fallback", "\"proxy\"", &[NO_TEXT, &["\"none\""]]),
    (SERVICE, "announce", "\"auto\"", &[NO_TEXT, &["\"ndp\"", "\"bgp\""]]),
    (SERVICE, "affinity", "\"none\"", &[NO_TEXT, &["\"cookie\""]]),
    (SERVICE, "tracking", "\"auto\"", &[NO_TEXT, &["\"Always\"", "\"never\""]]),
    (SERVICE, "all_down", "\"refuse\"", &[NO_TEXT, &["\"serve\"", "\"Refuse\""]]),
    (SERVICE, "down_grace", "\"1s\"", &[NO_TIME, &["\"Forever\""]]),
    (SERVICE, "timeouts", "{}", &[&["5", "\"1h\"", "[]"]]),
    (POOL, "name", "\"p\"", &[NO_NAME]),
    (
        POOL,
        "scheduler",
        "\"maglev\"",
        &[
            NO_TEXT,
            &["\"least_connections\"", "\"p2c\"", "\"ewma\"", "\"source_hash\"", "\"random\"", "\"rr\""],
        ],
    ),
    (POOL, "table_size", "65537", &[NO_NUMBER, &["0", "1", "65536", "655379"]]),
    (POOL, "weights", "\"static\"", &[NO_TEXT, &["\"dynamic\"", "\"Adaptive\""]]),
    (POOL, "slow_start", "{}", &[&["5", "\"30s\"", "[]"]]),
    (HEALTH, "check", "\"tcp\"", &[NO_TEXT, &["\"Agent\"", "\"ping\""]]),
    (HEALTH, "path", "\"/a\"", &[&["5", "\"\"", "\"health\"", "\"/a b\""]]),
    (HEALTH, "method", "\"GET\"", &[NO_TEXT, &["\"\"", "\"get\"", "\"CONNECT\"", "\"A B\""]]),
    (HEALTH, "host", "\"h\"", &[NO_TEXT, &["\"\"", "\"http://h/\"", "\"h/a\"", "\"a b\"", "\"u@h\""]]),
    (HEALTH, "headers", "{ A = \"b\" }", &[&["5", "\"A: b\"", "[]"]]),
    (
        HEALTH,
        "status",
        "\"200\"",
        &[NO_TEXT, &["\"\"", "\"200,\"", "\"199\"", "\"600\"", "\"299-200\"", "\"200-\"", "\"2xx\""]],
    ),
    (HEALTH, "body", "\"ok\"", &[NO_TEXT, &["\"\""]]),
    (HEALTH, "verify", "true", &[NO_TRUTH]),
    (HEALTH, "ca_file", "\"/ca.pem\"", &[NO_PATH, &["\"/no/such/file\"", "\"/dev/null\""]]),
    (HEALTH, "sni", "\"h\"", &[NO_TEXT, &["\"\"", "\"a b\"", "\"h:443\""]]),
    (HEALTH, "service", "\"s\"", &[NO_TEXT, &["\"a b\"", "\"é\""]]),
    (HEALTH, "send", "\"ping\"", &[NO_TEXT, &["\"\"", "\"hex:\"", "\"hex:0\"", "\"hex:0g\"", "\"hex:+1\""]]),
    (HEALTH, "expect", "\"pong\"", &[NO_TEXT, &["\"\"", "\"hex:zz\""]]),
    (HEALTH, "command", "\"/bin/true\"", &[&["5", "{}", "\"true\"", "\"/a\\u0000b\""]]),
    (HEALTH, "address", "\"10.0.0.1\"", &[NO_ADDRESS_ALONE]),
    (HEALTH, "source", "\"10.0.0.1\"", &[NO_ADDRESS_ALONE]),
    (HEALTH, "port", "80", &[NO_NUMBER, &["0", "65536"]]),
    (HEALTH, "fast_interval", "\"1s\"", &[NO_TIME, &["\"0s\"", "\"9ms\"", "\"364d\""]]),
    (HEALTH, "jitter", "10", &[NO_NUMBER, &["51"]]),
    (HEALTH, "interval", "\"1s\"", &[NO_TIME, &["\"0s\"", "\"9ms\""]]),
    (HEALTH, "timeout", "\"10ms\"", &[NO_TIME, &["\"0s\"", "\"364d\""]]),
    (HEALTH, "rise", "2", &[NO_NUMBER, &["0", "1001"]]),
    (HEALTH, "fall", "3", &[NO_NUMBER, &["0", "1001"]]),
    (OUTLIER, "consecutive", "5", &[NO_NUMBER, &["0"]]),
    (OUTLIER, "share", "50", &[NO_NUMBER, &["0", "101"]]),
    (OUTLIER, "volume", "20", &[NO_NUMBER, &["0"]]),
    (OUTLIER, "window", "\"10s\"", &[NO_TIME, &["\"0s\""]]),
    (OUTLIER, "ejection", "\"30s\"", &[NO_TIME, &["\"0s\""]]),
    (OUTLIER, "longest", "\"5m\"", &[NO_TIME, &["\"1s\""]]),
    (OUTLIER, "most", "50", &[NO_NUMBER, &["101"]]),
    (OUTLIER, "panic", "0", &[NO_NUMBER, &["101"]]),
    (BACKEND, "address", "\"10.0.0.1:80\"", &[NO_ADDRESS, &["[\"10.0.0.1:80\"]"]]),
    (BACKEND, "weight", "100", &[NO_NUMBER, &["65536"]]),
    (BACKEND, "backup", "false", &[NO_TRUTH]),
];

struct Mutations {
    base: Vec<String>,
    made: Vec<Mutation>,
}

impl Mutations {
    /// The index of the first line that begins with `header`.
    fn header(&self, lines: &[String], header: &str) -> Option<usize> {
        lines.iter().position(|line| line.trim_start().starts_with(header))
    }

    /// The base with the header of `level`, and the header's index.
    fn with_level(&self, level: Level) -> (Vec<String>, usize) {
        let mut lines = self.base.clone();
        if let Some(index) = self.header(&lines, level.header) {
            return (lines, index);
        }
        // Of a pool: before its first backend. The others may stand anywhere.
        let index = match level.header {
            "[pool.health]" | "[pool.outlier]" => self.header(&lines, BACKEND.header).unwrap_or(lines.len()),
            _ => lines.len(),
        };
        lines.insert(index, level.header.to_owned());
        (lines, index)
    }

    /// The index of `key` below the header at `header`.
    fn key(lines: &[String], header: usize, key: &str) -> Option<usize> {
        let below = lines.iter().enumerate().skip(header + 1);
        below.take_while(|(_, line)| !line.trim_start().starts_with('[')).map(|(index, _)| index).find(
            |&index| {
                let line = lines[index].trim_start();
                line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
            },
        )
    }

    /// Puts `line` in the place of `key`, or below the header where the base has no such key.
    fn put(&self, level: Level, key: &str, line: &str) -> (Vec<String>, usize) {
        let (mut lines, header) = self.with_level(level);
        let index = match Self::key(&lines, header, key) {
            Some(index) => {
                lines[index] = line.to_owned();
                index
            }
            None => {
                lines.insert(header + 1, line.to_owned());
                header + 1
            }
        };
        (lines, index)
    }

    fn push(&mut self, name: &str, lines: &[String], index: usize, path: String) {
        let text = lines.join("\n") + "\n";
        let name = format!("{name} ({path})");
        self.made.push(Mutation { name, text, line: Some(index + 1), path });
    }

    fn set(&mut self, name: &str, level: Level, key: &str, line: &str, path: &str) {
        let (lines, index) = self.put(level, key, line);
        self.push(name, &lines, index, format!("{}.{path}", level.path));
    }

    fn unknown_keys(&mut self) {
        for level in LEVELS {
            for line in ["colour = 1", "Name = \"x\"", "nested = { key = 1 }", "extra.dotted = true"] {
                let key = line.split(['.', ' ']).next().unwrap_or_default();
                self.set(&format!("unknown key: {line}"), level, key, line, key);
            }
        }
        for line in ["colour = 1", "services = []", "listen = \"192.0.2.1:80\""] {
            let mut lines = self.base.clone();
            lines.insert(0, line.to_owned());
            let key = line.split(' ').next().unwrap_or_default();
            self.push(&format!("unknown key of the file: {line}"), &lines, 0, key.to_owned());
        }
        for (header, path) in [
            ("[deamon]", "deamon"),
            ("[[services]]", "services"),
            ("[backend]", "backend"),
            ("[pool.breaker]", "breaker"),
            ("[pool.colour]", "colour"),
            ("[service.limits]", "limits"),
            ("[service.tls]", "tls"),
            ("[[service.route]]", "route"),
            ("[service.health]", "health"),
        ] {
            let mut lines = self.base.clone();
            lines.push(header.to_owned());
            let last =
                |header: &str| self.base.iter().filter(|line| line.starts_with(header)).count().max(1) - 1;
            let path = match header.trim_start_matches('[').split_once('.') {
                Some(("pool", _)) => format!("pool[{}].{path}", last(POOL.header)),
                Some((_, _)) => format!("service[{}].{path}", last(SERVICE.header)),
                None => path.to_owned(),
            };
            let index = lines.len() - 1;
            self.push(&format!("unknown table {header}"), &lines, index, path);
        }
    }

    fn values(&mut self) {
        for (level, key, _, bad) in KEYS {
            for value in bad.iter().copied().flatten() {
                self.set(&format!("value {value}"), *level, key, &format!("{key} = {value}"), key);
            }
        }
    }

    fn nested_values(&mut self) {
        for key in ["established", "closing", "half_open", "udp"] {
            for value in ["5", "true", "\"\"", "\"5\"", "\"0s\"", "\"never\"", "\"400d\""] {
                let line = format!("timeouts = {{ {key} = {value} }}");
                self.set(&format!("value {value}"), SERVICE, "timeouts", &line, &format!("timeouts.{key}"));
            }
        }
        for (table, path) in [
            ("slow_start = { time = 5 }", "slow_start.time"),
            ("slow_start = { time = \"-1s\" }", "slow_start.time"),
            ("slow_start = { least = 0 }", "slow_start.least"),
            ("slow_start = { least = 101 }", "slow_start.least"),
            ("slow_start = { window = \"1s\" }", "slow_start.window"),
            ("adaptive = { least = 5 }", "adaptive"),
            ("adaptive = { least = 0 }", "adaptive.least"),
            ("adaptive = { slots_per_second = 0 }", "adaptive.slots_per_second"),
            ("adaptive = { budget = 5 }", "adaptive.budget"),
        ] {
            let key = table.split(' ').next().unwrap_or_default();
            self.set(&format!("value {table}"), POOL, key, table, path);
        }
        let line = "timeouts = { idle = \"1s\" }";
        self.set("unknown key", SERVICE, "timeouts", line, "timeouts.idle");
        for (entry, path) in [
            ("5", "[0]"),
            ("\"\"", "[0]"),
            ("\"a/b\"", "[0]"),
            ("\"a-name-of-16-byt\"", "[0]"),
            ("\"eth0\", \"eth0\"", "[1]"),
            ("{ plane = \"tc\" }", "[0].name"),
            ("{ name = 5 }", "[0].name"),
            ("{ name = \"eth0\", plane = \"ebpf\" }", "[0].plane"),
            ("{ name = \"eth0\", mtu = 1500 }", "[0].mtu"),
        ] {
            let line = format!("interfaces = [{entry}]");
            self.set(&format!("entry {entry}"), KERNEL, "interfaces", &line, &format!("interfaces{path}"));
        }
        for (entries, path) in [
            ("\"192.0.2.1:80\", \"192.0.2.1\"", "[1]"),
            ("5", "[0]"),
            ("[\"192.0.2.1:80\"]", "[0]"),
            ("\"192.0.2.1:80\", \"192.0.2.1:80\"", "[1]"),
        ] {
            let line = format!("listen = [{entries}]");
            self.set(&format!("entries {entries}"), SERVICE, "listen", &line, &format!("listen{path}"));
        }
    }

    fn duplicate_and_missing_keys(&mut self) {
        for (level, key, good, _) in KEYS {
            let line = format!("{key} = {good}");
            let (mut lines, index) = self.put(*level, key, &line);
            lines.insert(index + 1, line);
            self.push("duplicate key", &lines, index + 1, format!("{}.{key}", level.path));
        }
        for (level, key) in
            [(SERVICE, "name"), (SERVICE, "listen"), (SERVICE, "pool"), (POOL, "name"), (BACKEND, "address")]
        {
            let (mut lines, header) = self.with_level(level);
            if let Some(index) = Self::key(&lines, header, key) {
                lines.remove(index);
                self.push("missing key", &lines, header, format!("{}.{key}", level.path));
            }
        }
        for (good, bad) in [("[daemon]", "[[daemon]]"), ("[kernel]", "[[kernel]]")] {
            let mut lines = self.base.clone();
            let index = match self.header(&lines, good) {
                Some(index) => index,
                None => {
                    lines.push(String::new());
                    lines.len() - 1
                }
            };
            lines[index] = bad.to_owned();
            let path = bad.trim_matches(['[', ']']).to_owned();
            self.push(&format!("header {bad}"), &lines, index, path);
        }
    }

    /// What one more object would contradict.
    fn contradictions(&mut self) {
        let count = |header: &str| self.base.iter().filter(|line| line.starts_with(header)).count();
        let (service, pool) = (count(SERVICE.header), count(POOL.header));
        let of = |key: &str, level: Level| {
            let (lines, header) = self.with_level(level);
            let line = Self::key(&lines, header, key).map(|index| lines[index].clone()).unwrap_or_default();
            line.split_once('=')
                .map(|(_, value)| value.split('#').next().unwrap_or_default().trim().to_owned())
        };
        let (Some(listen), Some(address)) = (of("listen", SERVICE), of("address", BACKEND)) else { return };
        let (Some(service_name), Some(pool_name)) = (of("name", SERVICE), of("name", POOL)) else { return };
        let listen =
            listen.trim_matches(['[', ']', ' ']).split(',').next().unwrap_or_default().trim().to_owned();
        let more_service = |name: &str, listen: &str, pool: &str| {
            vec![
                "[[service]]".to_owned(),
                format!("name = {name}"),
                format!("listen = {listen}"),
                format!("pool = {pool}"),
            ]
        };
        let more_pool = |name: &str, rest: &[&str]| {
            let mut lines = vec!["[[pool]]".to_owned(), format!("name = {name}")];
            lines.extend(rest.iter().map(|line| (*line).to_owned()));
            lines
        };
        let other = "\"203.0.113.77:7777\"";
        let (fresh, at_service, at_pool) =
            ("\"fresh-name\"", format!("service[{service}]"), format!("pool[{pool}]"));
        let address_line = format!("address = {address}");
        let loops = format!("address = {listen}");
        let cases: Vec<(&str, Vec<String>, usize, String)> = vec![
            (
                "two services of one name",
                more_service(&service_name, other, fresh),
                1,
                format!("{at_service}.name"),
            ),
            (
                "two services on one address",
                more_service(fresh, &listen, fresh),
                2,
                format!("{at_service}.listen"),
            ),
            (
                "a pool that is not there",
                more_service(fresh, other, "\"nowhere\""),
                3,
                format!("{at_service}.pool"),
            ),
            ("two pools of one name", more_pool(&pool_name, &[]), 1, format!("{at_pool}.name")),
            (
                "one backend twice",
                more_pool(fresh, &["[[pool.backend]]", &address_line, "[[pool.backend]]", &address_line]),
                5,
                format!("{at_pool}.backend[1].address"),
            ),
            (
                "a backend that is a listen address",
                more_pool(fresh, &["[[pool.backend]]", &loops]),
                3,
                format!("{at_pool}.backend[0].address"),
            ),
            (
                "more backends than slots",
                more_pool(
                    fresh,
                    &[
                        "table_size = 2",
                        "backend = [{ address = \"203.0.113.1:1\" }, { address = \"203.0.113.2:1\" }, { address = \"203.0.113.3:1\" }]",
                    ],
                ),
                2,
                format!("{at_pool}.table_size"),
            ),
            (
                "a path without an http check",
                more_pool(fresh, &["health = { check = \"tcp\", path = \"/\" }"]),
                2,
                format!("{at_pool}.health.path"),
            ),
            (
                "a time-out beyond the interval",
                more_pool(fresh, &["health = { interval = \"1s\", timeout = \"1001ms\" }"]),
                2,
                format!("{at_pool}.health.timeout"),
            ),
        ];
        let forwarded = |pool: &[&str], service: &[&str]| {
            let mut lines = more_service(fresh, other, fresh);
            lines.extend(service.iter().map(|line| (*line).to_owned()));
            lines.extend(more_pool(fresh, pool));
            lines
        };
        let path = |key: &str| format!("{at_service}.{key}");
        let nat = "forward = \"nat\"";
        let (v4, v6) = (
            "backend = [{ address = \"203.0.113.1:1\" }]",
            "backend = [{ address = \"[2001:db8:77::1]:1\" }]",
        );
        let local = "backend = [{ address = \"127.0.0.1:1\" }]";
        let mut cases = cases;
        cases.extend([
            (
                "nat with round_robin",
                forwarded(&["scheduler = \"round_robin\"", v4], &[nat]),
                4,
                path("forward"),
            ),
            ("nat to another family", forwarded(&[v6], &[nat]), 4, path("forward")),
            ("nat to loopback", forwarded(&[local], &[nat]), 4, path("forward")),
        ]);
        for (name, more, offset, path) in cases {
            let mut lines = self.base.clone();
            let index = lines.len() + offset;
            lines.extend(more);
            self.push(name, &lines, index, path);
        }
    }

    fn syntax(&mut self) {
        for line in [
            "flows",
            "flows =",
            "flows = ",
            "flows = # nothing",
            "flows = 1 2",
            "flows = many",
            "flows = 01",
            "flows = 1__0",
            "flows = 0x",
            "flows = 1_",
            "flows = tru",
            "flows = 10.0.0.1:80",
            "flows == 5",
            "flows = 'x",
            "flows = \"x",
            "flows = \"\\q\"",
            "flows = \"\\uD800\"",
            "flows = 1979-99-99",
            "flows = 5,",
            "flows = }",
            "flows = [1",
            "flows = [1,",
            "flows = { a = 1",
            "flows = { a }",
            "flows = \"\"\"x",
            "flows = '''x",
            "flows = ${FLOWS}",
        ] {
            self.set(&format!("syntax: {line}"), KERNEL, "flows", line, "flows");
        }
        for (header, path) in [
            ("[colour", "colour"),
            ("[[colour]", "colour"),
            ("[colour]]", "colour"),
            ("[]", ""),
            ("[a b]", ""),
        ] {
            let mut lines = self.base.clone();
            lines.insert(0, header.to_owned());
            self.push(&format!("syntax: {header}"), &lines, 0, path.to_owned());
        }
        for line in ["= 5", "{}", "\"key\"", "!", "\u{0}", "<config>"] {
            let mut lines = self.base.clone();
            lines.insert(0, line.to_owned());
            self.push(&format!("syntax: {line}"), &lines, 0, String::new());
        }
    }

    fn whole_files(&mut self) {
        for (name, text) in [
            ("an empty file", ""),
            ("blank lines", "\n \n\t\n"),
            ("comments alone", "# a comment\n#another\n"),
            ("a byte order mark alone", "\u{feff}"),
        ] {
            let (name, text) = (name.to_owned(), text.to_owned());
            self.made.push(Mutation { name, text, line: None, path: String::new() });
        }
    }
}
