//! What tasks are handed that is made of templates.

use serde_json::json;

use super::*;
use crate::container::handed;

fn known(all: &[(Kind, &str, &[u8], bool)]) -> BTreeMap<(Kind, String), Arc<Handout>> {
    let entry = |&(kind, id, data, is_template): &(Kind, &str, &[u8], bool)| {
        let data = Arc::new(data.to_vec().into());
        let handout = Handout { data, is_template };
        ((kind, id.to_owned()), Arc::new(handout))
    };
    all.iter().map(entry).collect()
}

fn made(
    known: &BTreeMap<(Kind, String), Arc<Handout>>,
    env: &[&str],
) -> Result<Vec<String>, String> {
    let claim = |noun: &str, id: &str, target: &str| {
        let file = json!({"Name": target});
        json!({format!("{noun}ID"): id, format!("{noun}Name"): id, "File": file})
    };
    let claims = |kind: Kind, noun: &str| -> Vec<_> {
        let ids = known.keys().filter(|(of, _)| *of == kind);
        ids.map(|(_, id)| claim(noun, id, &format!("at/{id}")))
            .collect()
    };
    let wanted: TaskSpecContainerSpec = serde_json::from_value(json!({
        "Env": env,
        "Secrets": claims(Kind::Secret, "Secret"),
        "Configs": claims(Kind::Config, "Config"),
    }))
    .expect("a specification");
    let task = proto::Task {
        service_name: "web".into(),
        slot: 3,
        ..proto::Task::default()
    };
    let node = Names {
        hostname: "n1".into(),
        ..Names::default()
    };
    let files = handed(&wanted).expect("files");
    let all = contents(&task, &wanted, &node, known, files);
    let all = all.map_err(|error| error.to_string())?;
    let text =
        |(_, data): &(_, Arc<Sensitive>)| String::from_utf8_lossy(data.reveal()).into_owned();
    Ok(all.iter().map(text).collect())
}

#[test]
fn templates_name_the_task_its_variables_and_what_it_is_handed() {
    let conf = b"{{.Service.Name}}.{{.Task.Slot}} on {{.Node.Hostname}}: {{env \"WHERE\"}} {{secret \"at/key\"}} \
                 {{config \"at/plain\"}}";
    let all = known(&[
        (Kind::Secret, "key", b"sesame", false),
        (Kind::Secret, "made", b"{{config \"at/conf\"}}", true),
        (Kind::Config, "conf", conf, true),
        (Kind::Config, "plain", b"{{as it is", false),
    ]);
    // Variables as the task has them.
    let contents = made(&all, &["WHERE=at {{.Node.Hostname}}", "BARE"]).expect("filled in");
    let expected = [
        "sesame",
        // What is looked up is not filled in.
        str::from_utf8(conf).expect("text"),
        "web.3 on n1: at n1 sesame {{as it is",
        "{{as it is",
    ];
    assert_eq!(contents, expected);
}

#[test]
fn what_cannot_be_filled_in_is_told_of() {
    for (template, told) in [
        (
            &b"{{secret \"key\"}}"[..],
            "failed to expand templated config conf: error calling secret: secret target key not found",
        ),
        (
            b"{{.Nobody}}",
            "failed to expand templated config conf: no field Nobody",
        ),
        (
            b"\xff{{",
            "failed to expand templated config conf: a template has to be text in UTF-8",
        ),
    ] {
        let all = known(&[
            (Kind::Secret, "key", b"sesame", false),
            (Kind::Config, "conf", template, true),
        ]);
        assert_eq!(made(&all, &[]).expect_err("refused"), told);
        // Of a plain one nothing is expected.
        let all = known(&[(Kind::Config, "conf", template, false)]);
        assert!(made(&all, &[]).is_ok());
    }
    assert!(check_payload(b"\xff").is_err());
    assert_eq!(check_payload(b"{{secret \"key\"}}"), Ok(()));
}
