//! `${NAME}` inside strings.

use std::borrow::Cow;

use super::Environment;
use super::problem::Fault;

/// Replaces every `${NAME}` by the variable's value; `$${` stands for a literal `${`.
///
/// # Errors
/// A variable that is not set, or braces that hold no name.
pub(super) fn expand<'t>(text: &'t str, environment: &Environment) -> Result<Cow<'t, str>, Fault> {
    if !text.contains("${") {
        return Ok(Cow::Borrowed(text));
    }
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, found) = rest.split_at(start);
        let after = found.get(2..).unwrap_or_default();
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = after;
            continue;
        }
        expanded.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            return Err(Fault::new("\"${\" without its \"}\"").hint("write $${ for a literal ${"));
        };
        expanded.push_str(value(name, environment)?);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(Cow::Owned(expanded))
}

fn value<'e>(name: &str, environment: &'e Environment) -> Result<&'e str, Fault> {
    let is_name = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !is_name {
        return Err(Fault::new(format!("{name:?} is not the name of an environment variable"))
            .hint("only ${NAME} is known, without defaults; write $${ for a literal ${"));
    }
    environment.get(name).map(String::as_str).ok_or_else(|| {
        Fault::new(format!("the environment variable {name} is not set"))
            .hint(format!("set {name}, or write $${{ for a literal ${{"))
    })
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn variables_are_replaced_and_escapes_kept() {
        let environment = [("IP", "192.0.2.1"), ("EMPTY", ""), ("NESTED", "${IP}")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        for (text, expanded) in [
            ("plain $ {} text", Some("plain $ {} text")),
            ("${IP}:80", Some("192.0.2.1:80")),
            ("${EMPTY}x${IP}${IP}", Some("x192.0.2.1192.0.2.1")),
            ("$${IP} ${IP}", Some("${IP} 192.0.2.1")),
            // What a variable holds is not looked at again.
            ("${NESTED}", Some("${IP}")),
            ("${MISSING}", None),
            ("${IP", None),
            ("${}", None),
            ("${IP:-x}", None),
        ] {
            assert_eq!(expand(text, &environment).ok().as_deref(), expanded, "{text}");
        }
    }
}
