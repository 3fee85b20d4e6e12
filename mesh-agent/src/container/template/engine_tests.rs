//! What the engine refuses, and what its errors do not show.

use std::sync::Arc;

use mesh_api::Sensitive;

use super::*;

fn lookups() -> Lookups {
    let data = |text: &[u8]| Arc::new(Sensitive::from(text.to_vec()));
    Lookups {
        env: vec![("A".into(), "1".into()), ("A".into(), "2".into())],
        secrets: [
            ("key".to_owned(), data(b"sesame")),
            ("raw".to_owned(), data(b"\xff\xfe")),
        ]
        .into(),
        configs: [("etc/conf".to_owned(), data(b"{{env \"A\"}}"))].into(),
    }
}

fn filled(text: &str) -> Result<String, String> {
    fill(text, || Value::from("here".to_owned()), Some(lookups()))
}

#[test]
fn functions_find_what_the_task_has() {
    for (text, expected) in [
        ("no placeholder {", "no placeholder {"),
        ("é {{.}} ü", "é here ü"),
        ("{{env \"A\"}}{{env \"B\"}}.", "1."),
        ("{{secret \"key\"}}", "sesame"),
        // As it is stored.
        ("{{config \"etc/conf\"}}", "{{env \"A\"}}"),
        (
            "{{if eq (secret \"key\") `sesame`}}open{{else}}shut{{end}}",
            "open",
        ),
        ("{{/* {{ */}}{{- join \"é\" \"a\" \"b\" -}} ", "aéb"),
        ("{{\"}}\"}}", "}}"),
    ] {
        assert_eq!(filled(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_wrong_is_said_and_shows_no_contents() {
    for text in [
        "{{secret (secret \"key\")}}",
        "{{secret \"key\" | secret}}",
        "{{config (secret \"key\")}}",
    ] {
        let told = filled(text).expect_err(text);
        assert!(told.ends_with(" target not found"), "{told}");
    }
    for text in [
        "{{\"sesame\" 1}}",
        "{{with $x := \"sesame\"}}{{$x 1}}{{end}}",
        "{{(print \"sesame\").A}}",
        "{{print nil \"sesame\"}}",
        "{{\"sesame\" | \"sesame\"}}",
    ] {
        let told = filled(text).expect_err(text);
        assert!(!told.contains("sesame"), "{text}: {told}");
    }
    for (text, expected) in [
        ("a\n{{.Nobody", "template: expansion:"),
        (
            "{{nothing}}",
            "template: expansion: function nothing not defined",
        ),
        ("{{.Nobody}}", "only maps and objects have fields"),
        (
            "{{secret \"nobody\"}}",
            "error calling secret: secret target nobody not found",
        ),
        (
            "{{config \"key\"}}",
            "error calling config: config target key not found",
        ),
        (
            "{{secret \"raw\"}}",
            "error calling secret: secret target raw is no text in UTF-8",
        ),
        ("{{secret}}", "error calling secret: it wants one name"),
        ("{{env 1}}", "error calling env: it wants one name"),
        (
            "{{printf \"%d\" (secret \"key\")}}",
            "a function was given what it cannot take",
        ),
        (
            "{{lt (secret \"key\") true}}",
            "a function was given what it cannot take",
        ),
        (
            "{{index (secret \"key\") 1}}",
            "index wants labels and the name of one",
        ),
        ("{{range (secret \"key\")}}{{end}}", "range wants a list"),
        ("{{len é}}", "unrecognized character in action: 'é'"),
    ] {
        let told = filled(text).expect_err(text);
        assert!(told.starts_with(expected), "{text}: {told}");
        assert!(!told.contains("sesame"), "{told}");
    }
    // Elsewhere there are none of these functions.
    let told = fill("{{secret \"key\"}}", || Value::Nil, None).expect_err("refused");
    assert_eq!(told, "template: expansion: function secret not defined");
}

#[test]
fn no_template_takes_the_agent_with_it() {
    let level = |open: &str, close: &str, levels| {
        let text = format!("{}{{{{.}}}}{}", open.repeat(levels), close.repeat(levels));
        filled(&text)
    };
    let parentheses = |levels| {
        let (open, close) = ("(".repeat(levels), ")".repeat(levels));
        filled(&format!("{{{{{open}.{close}}}}}"))
    };
    assert_eq!(
        level("{{if .}}", "{{end}}", MAX_LEVELS).as_deref(),
        Ok("here")
    );
    assert_eq!(parentheses(MAX_LEVELS).as_deref(), Ok("here"));
    let told = "a template has at most 200 levels";
    assert_eq!(
        level("{{if .}}", "{{end}}", MAX_LEVELS + 1).unwrap_err(),
        told
    );
    assert_eq!(level("{{else if .}}", "", 100_000).unwrap_err(), told);
    assert_eq!(level("{{- with .}}", "", 100_000).unwrap_err(), told);
    assert_eq!(parentheses(100_000).unwrap_err(), told);
    // Where there is no level, there may be many.
    let many = filled(&"(({{.}}))".repeat(2000)).expect("filled in");
    assert_eq!(many.len(), 2000 * 8);

    let defined = "{{define \"x\"}}{{template \"x\"}}{{end}}{{template \"x\"}}";
    let told = filled(defined).unwrap_err();
    assert_eq!(told, "a template defines no others here");
    for name in ["", "expansion", &"-".repeat(20)] {
        let told = filled(&format!("{{{{template \"{name}\"}}}}")).unwrap_err();
        assert_eq!(told, format!("template {name} not defined"));
    }
    for word in ["block", "define"] {
        let text = format!("{{{{{word} \"a\" .}}}}").repeat(60_000);
        assert_eq!(
            filled(&text).unwrap_err(),
            "a template defines no others here"
        );
    }

    let half = "x".repeat(MAX_FILLED / 2);
    let told = filled(&format!("{half}{{{{.}}}}{half}")).unwrap_err();
    assert_eq!(told, "it grows to more than 8388608 bytes");
}

#[test]
fn no_template_goes_on_without_end_or_fills_the_memory() {
    let ranges = format!("{}x{}", "{{range $}}".repeat(40), "{{end}}".repeat(40));
    assert_eq!(
        filled(&ranges).unwrap_err(),
        "a template has at most 2 ranges"
    );

    let mut doubled = "{{$v0 := \"xxxxxxxx\"}}".to_owned();
    for at in 0..30 {
        doubled += &format!("{{{{$v{} := print $v{at} $v{at}}}}}", at + 1);
    }
    let told = filled(&doubled).unwrap_err();
    assert_eq!(told, "a value has more than 1048576 bytes");
    let told = filled(&"{{$a := secret \"key\"}}".repeat(20_000)).unwrap_err();
    assert_eq!(told, "a template has at most 32 variables");
    let told = filled(&format!("{{{{print{}}}}}", " .".repeat(100_000))).unwrap_err();
    assert_eq!(told, "an action of a template has at most 64 words");
    for print in ["print", "println", "join \"\"", "urlquery", "printf \"%s\""] {
        let text = "x".repeat(300_000);
        let action = format!("{{{{{print} \"{text}\"}}}}");
        // Written once it is right, of many runs all together are too much.
        assert!(filled(&action).is_ok(), "{print}");
        let most = format!(
            "{{{{with \"{text}\"}}}}{}{{{{end}}}}",
            format!("{{{{if {print} .}}}}{{{{end}}}}").repeat(60)
        );
        let told = filled(&most).unwrap_err();
        assert_eq!(told, "its values have more than 8388608 bytes", "{print}");
    }
    for (action, told) in [
        (
            "{{printf \"%100000000d\" 1}}",
            "printf takes numbers of 3 digits at most, and no *",
        ),
        (
            "{{printf \"%*d\" 100000000 1}}",
            "printf takes numbers of 3 digits at most, and no *",
        ),
    ] {
        assert_eq!(filled(action).unwrap_err(), told);
    }
    let verbs = format!("{{{{printf \"{}\" \"x\"}}}}", "%[1]s".repeat(100_000));
    assert_eq!(
        filled(&verbs).unwrap_err(),
        "a value has more than 1048576 bytes"
    );
    assert_eq!(
        filled("{{printf \"%-5s|%3d\" \"a\" 7}}").as_deref(),
        Ok("a    |  7")
    );
}
