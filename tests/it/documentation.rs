//! What the documents promise about the configuration is what is compiled in.

use std::fs;

/// `section.key = value` of every key in `config/default.toml`.
fn defaults() -> Vec<(String, String)> {
    let table: toml::Table = include_str!("../../config/default.toml").parse().expect("the default file is TOML");
    let mut keys = Vec::new();
    flatten("", &table, &mut keys);
    keys
}

fn flatten(prefix: &str, table: &toml::Table, keys: &mut Vec<(String, String)>) {
    for (name, value) in table {
        match value {
            toml::Value::Table(inner) => flatten(&format!("{prefix}{name}."), inner, keys),
            value => keys.push((format!("{prefix}{name}"), value.to_string())),
        }
    }
}

#[test]
fn every_key_is_listed_with_its_default() {
    let list =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md")).expect("the list of keys");
    for (key, value) in defaults() {
        let row = list.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/configuration.md has no {key}"));
        let documented = row.split('|').nth(2).unwrap_or_default().trim().trim_matches('`').replace('_', "");
        assert_eq!(documented, value.replace('_', ""), "{key}");
    }
    let rows =
        list.lines().filter(|line| line.starts_with("| `") && line.contains('.') && line.matches('|').count() == 4);
    let unknown: Vec<&str> = rows
        .filter_map(|line| line.split('`').nth(1))
        .filter(|key| key.contains('.') && !defaults().iter().any(|(known, _)| known == key))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
