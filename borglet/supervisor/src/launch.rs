//! Fills in what a task of the target leaves open: placeholders, environment, volumes.
//!
//! Invariant: a [`Launch`] names only ports that the cell handed out and volumes that the
//! machine's operator allows.

use crate::turn::{Config, Launch, Root, Run, ShownPackage};
use crate::volumes;
use borg_proto::Millis;
use borg_proto::names::shorten;
use borg_proto::package::{ImageConfig, Package, SHOWN_IN};
use borg_proto::poll::TargetTask;
use std::collections::BTreeMap;

/// What to start for a task of the target.
///
/// # Errors
/// A sentence for people when the task can never start on this machine.
pub(crate) fn launch(
    config: &Config,
    run: Run,
    task: &TargetTask,
    ends_by: Option<Millis>,
    failures: u32,
) -> Result<Launch, String> {
    let spec = &task.spec;
    if spec.ports.len() != task.ports.len() {
        return Err(format!(
            "{} ports were handed out for {} names",
            task.ports.len(),
            spec.ports.len()
        ));
    }
    for volume in &spec.volumes {
        volumes::check(&config.volumes, volume)?;
    }
    let image = task.packages.first().filter(|_| spec.image.is_some());
    let image_config = image.and_then(|image| image.image.as_ref());
    let image_env = image_config.map(|image| &image.env);
    let of_image = image_config.filter(|_| spec.command.is_empty()).map(ImageConfig::command);
    let own = || {
        let expanded = |(i, word): (usize, &String)| {
            expand(task, word).map_err(|why| format!("command[{i}]: {why}"))
        };
        spec.command.iter().enumerate().map(expanded).collect::<Result<Vec<_>, _>>()
    };
    // What an image says is meant as it is.
    let argv = of_image.map_or_else(own, Ok)?;
    if argv.first().is_none_or(String::is_empty) {
        return Err("command is empty".into());
    }
    Ok(Launch {
        run,
        name: task.name.clone(),
        task: task.clone(),
        argv,
        env: environment(config, image_env, task)?,
        limit: spec.limit.clone(),
        memory: spec.memory,
        cpu_cap_milli: spec.cpu_cap_milli,
        ports: task.ports.clone(),
        volumes: spec.volumes.clone(),
        shared: task.shared.clone(),
        appclass: task.appclass,
        priority: task.priority,
        grace: spec.grace_ms,
        ends_by: ends_by.filter(|_| task.exclusive),
        loosen: spec.loosen.clone(),
        root: image.zip(image_config).map(|(package, image)| root(package, image)),
        packages: shown(task).map(|package| package.0).collect(),
        failures,
    })
}

fn root(package: &Package, image: &ImageConfig) -> Root {
    let workdir = if image.workdir.is_empty() { "/" } else { &image.workdir };
    Root {
        image: package.key.to_string(),
        layers: package.layers.iter().map(|layer| layer.digest).collect(),
        user: image.user.clone(),
        workdir: workdir.to_owned(),
    }
}

/// The packages that a task sees, each with the variable that says where.
fn shown(task: &TargetTask) -> impl Iterator<Item = (ShownPackage, String, String)> {
    let packages = task.packages.iter().skip(usize::from(task.spec.image.is_some()));
    packages.filter_map(|package| {
        let name = package.key.name.clone();
        let variable = name.as_str().to_uppercase().replace('-', "_");
        let path = format!("{SHOWN_IN}/{name}");
        let layer = package.layers.first()?.digest;
        Some((ShownPackage { name, layer }, variable, path))
    })
}

fn environment(
    config: &Config,
    image: Option<&BTreeMap<String, String>>,
    task: &TargetTask,
) -> Result<BTreeMap<String, String>, String> {
    let mut env = image.cloned().unwrap_or_default();
    for (key, value) in &task.spec.env {
        let value = expand(task, value).map_err(|why| format!("env.{}: {why}", shorten(key)))?;
        env.insert(key.clone(), value);
    }
    // The cell's own last, so that a job cannot pretend to be another.
    let mut set = |key: &str, value: String| env.insert(format!("BORG_{key}"), value);
    set("CELL", config.cell.to_string());
    set("MACHINE", config.machine.to_string());
    set("USER", task.name.job.user.to_string());
    set("JOB", task.name.job.name.to_string());
    set("TASK", task.name.index.to_string());
    set("TASKS", task.tasks.to_string());
    set("INCARNATION", task.id.number.to_string());
    if let Some(shared) = &task.shared {
        set("ALLOC", shared.name.to_string());
        if shared.rescue {
            set("RESCUE", "1".to_owned());
        }
    }
    for (name, port) in task.spec.ports.iter().zip(&task.ports) {
        set(&format!("PORT_{}", name.as_str().to_uppercase().replace('-', "_")), port.to_string());
    }
    for (_, variable, path) in shown(task) {
        set(&format!("PACKAGE_{variable}"), path);
    }
    if let Some(first) = task.ports.first() {
        set("PORT", first.to_string());
    }
    Ok(env)
}

/// Replaces `%task%`, `%tasks%` and `%port.NAME%`; any other `%` stays as it is.
fn expand(task: &TargetTask, text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('%') {
        out.push_str(&rest[..start]);
        let after = &rest[start + 1..];
        let found = after.find('%').and_then(|end| Some((value(task, &after[..end])?, end)));
        match found {
            Some((value, end)) => {
                out.push_str(&value?);
                rest = &after[end + 1..];
            }
            None => {
                out.push('%');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// What a placeholder stands for; `None` when the word between two `%` is none.
fn value(task: &TargetTask, word: &str) -> Option<Result<String, String>> {
    match word {
        "task" => return Some(Ok(task.name.index.to_string())),
        "tasks" => return Some(Ok(task.tasks.to_string())),
        _ => {}
    }
    let name = word.strip_prefix("port.")?;
    let mut ports = task.spec.ports.iter().zip(&task.ports);
    let found = ports.find(|(known, _)| known.as_str() == name);
    Some(found.map(|(_, port)| port.to_string()).ok_or_else(|| {
        let known: Vec<_> = task.spec.ports.iter().map(ToString::to_string).collect();
        format!("%port.{}% names no port of the task; it has [{}]", shorten(name), known.join(", "))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::target_task;
    use crate::volumes::AllowedVolume;
    use borg_proto::spec::{TaskSpec, Volume};
    use std::sync::Arc;

    fn launched(change: impl FnOnce(&mut TaskSpec)) -> Result<Launch, String> {
        let mut config = Config::new("lab".parse().unwrap(), "m1".parse().unwrap(), 1);
        config.volumes = vec![AllowedVolume::parse("/data").unwrap()];
        let mut task = target_task(7, 3, false);
        let mut spec = (*task.spec).clone();
        spec.ports = ["http", "admin-x"].map(|name| name.parse().unwrap()).to_vec();
        task.ports = vec![8001, 8002];
        change(&mut spec);
        task.spec = Arc::new(spec);
        launch(&config, Run { id: task.id, number: 0 }, &task, None, 0)
    }

    #[test]
    fn placeholders_are_filled_in_and_other_percent_signs_stay() {
        let words =
            ["/bin/x", "%task%/%tasks%", "a%port.admin-x%b", "100%", "%d %task% 5%", "%%", "%task"];
        let launch = launched(|spec| spec.command = words.map(String::from).to_vec()).unwrap();
        assert_eq!(launch.argv, ["/bin/x", "3/10", "a8002b", "100%", "%d 3 5%", "%%", "%task"]);
    }

    #[test]
    fn a_placeholder_of_an_unknown_port_is_a_clear_failure() {
        let why =
            launched(|spec| spec.command = vec!["x".into(), "%port.htp%".into()]).unwrap_err();
        assert_eq!(why, "command[1]: %port.htp% names no port of the task; it has [http, admin-x]");
        let why = launched(|spec| {
            spec.env.insert("A".into(), "%port.no%".into());
        });
        assert!(why.unwrap_err().starts_with("env.A: "));
    }

    #[test]
    fn the_environment_tells_the_task_who_it_is_and_cannot_be_forged() {
        let launch = launched(|spec| {
            spec.env.insert("BORG_USER".into(), "root".into());
            spec.env.insert("URL".into(), "http://h:%port.http%".into());
        })
        .unwrap();
        let get = |key: &str| launch.env[key].clone();
        assert_eq!(
            ["CELL", "MACHINE", "USER", "JOB", "TASK", "TASKS", "INCARNATION"]
                .map(|key| get(&format!("BORG_{key}"))),
            ["lab", "m1", "ann", "web", "3", "10", "1"]
        );
        assert_eq!(
            ["PORT", "PORT_HTTP", "PORT_ADMIN_X"].map(|key| get(&format!("BORG_{key}"))),
            ["8001", "8001", "8002"]
        );
        assert_eq!(get("URL"), "http://h:8001");
    }

    #[test]
    fn a_volume_that_the_machine_does_not_allow_is_a_clear_failure() {
        let why =
            launched(|spec| spec.volumes = vec![Volume { path: "/etc".into(), writable: false }])
                .unwrap_err();
        assert!(why.contains("\"/etc\"") && why.contains("/data"), "{why}");
    }
}
