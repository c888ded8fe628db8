//! The real binary's command line: exit codes, and what goes to which stream.
//!
//! Owns what only a process can show; flags, layers and messages have their tests beside their code.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    process::{Command, Output},
    thread,
};

/// The binary with `args` and none of our variables but `env`.
fn clipserve(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipserve"));
    command.args(args).env_clear().envs(env.iter().copied());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn help_and_version_exit_0_on_stdout() {
    for args in [
        &["--help"][..],
        &["--version"],
        &["serve", "--help"],
        &["tune", "--help"],
        &["embed", "--help"],
        &["compare", "--help"],
        &["healthcheck", "--help"],
    ] {
        let output = clipserve(args, &[]);
        assert_eq!(output.status.code(), Some(0));
        assert!(!output.stdout.is_empty() && output.stderr.is_empty());
    }
    let version = clipserve(&["--version"], &[]).stdout;
    assert_eq!(text(&version), format!("clipserve {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_command_line_exits_64_on_stderr() {
    let output = clipserve(&["--modle", "x"], &[]);
    assert_eq!(output.status.code(), Some(64));
    assert!(output.stdout.is_empty() && text(&output.stderr).contains("--modle"));
}

#[test]
fn a_wrong_configuration_exits_64_with_one_line_for_each_error() {
    let env = [("CLIPSERVE__LIMITS__MAX_IMAGES", "0"), ("CLIPSERVE__NO__SUCH", "1")];
    for extra in [&[][..], &["--check-config"], &["--print-config"]] {
        let output = clipserve(&[&["--provider", "tpu", "--config", "/absent/c.toml"], extra].concat(), &env);
        assert_eq!(output.status.code(), Some(64));
        assert!(output.stdout.is_empty());
        let lines: Vec<_> = text(&output.stderr).lines().collect();
        assert_eq!(lines.len(), 4, "{lines:?}");
        let names = ["/absent/c.toml", "no.such", "limits.max_images", "engine.provider"];
        for (line, name) in lines.iter().zip(names) {
            assert!(line.starts_with("clipserve: ") && line.contains(name), "{line}");
        }
    }
}

#[test]
fn a_path_that_is_none_is_a_fault_of_the_configuration() {
    let env = [("CLIPSERVE__MODEL__PATH", "m"), ("CLIPSERVE__SERVER__API_KEY", "k")];
    for args in [&["--check-config"][..], &[]] {
        let output = clipserve(&[&["serve", "--set", "server.open_paths=/predcit"], args].concat(), &env);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(64), ""));
        let stderr = text(&output.stderr);
        assert!(stderr.contains("server.open_paths has \"/predcit\"") && stderr.lines().count() == 1, "{stderr}");
    }
}

#[test]
fn a_failure_is_one_line_whatever_a_name_holds() {
    for (args, code) in
        [(&["export", "/absent\nclipserve: forged", "x"][..], 1), (&["embed", "/absent\nforged.jpg", "--out", "x"], 64)]
    {
        let output = clipserve(args, &[]);
        assert_eq!(output.status.code(), Some(code));
        let stderr = text(&output.stderr);
        assert!(stderr.starts_with("clipserve: /absent\\n") && stderr.lines().count() == 1, "{stderr}");
    }
}

#[test]
fn check_config_says_ok_and_print_config_prints_toml() {
    let env = [("CLIPSERVE__MODEL__PATH", "m")];
    let output = clipserve(&["--check-config"], &env);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "configuration ok\n"));
    let output = clipserve(&["serve", "--print-config", "--listen", "127.0.0.1:1"], &env);
    assert_eq!(output.status.code(), Some(0));
    let table: toml::Table = text(&output.stdout).parse().unwrap();
    assert_eq!(table["server"]["listen"].as_str(), Some("127.0.0.1:1"));
    assert_eq!(table["model"]["path"].as_str(), Some("m"));
}

#[test]
fn healthcheck_exits_0_on_200_and_1_with_one_line_otherwise() {
    for (answer, code) in [("HTTP/1.1 200 OK\r\n\r\n", 0), ("HTTP/1.1 503 Service Unavailable\r\n\r\n", 1)] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut request, mut byte) = (Vec::new(), [0]);
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                request.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let output = clipserve(&["healthcheck"], &[("CLIPSERVE__SERVER__LISTEN", &address)]);
        server.join().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert_eq!(text(&output.stderr).lines().count(), usize::try_from(code).unwrap());
    }
    let output = clipserve(&["healthcheck", "--listen", "here"], &[]);
    assert_eq!(output.status.code(), Some(64));
}
