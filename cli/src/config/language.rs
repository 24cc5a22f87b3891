//! Evaluates `.bcl`: Starlark with limits, `load` of local files, and the constructors.
//!
//! The only module that knows the crate `starlark`, together with `fields` and `constructors`
//! below it. Its interface is not stable, so the version is pinned.
//!
//! The limits here (steps, heap, call depth, files) give good error messages for ordinary
//! mistakes; they are checked between steps, so a single step may still be too much. The process
//! that this runs in has the hard limits: see `guard`.

use super::constructors::constructors;
use super::fields::FieldError;
use super::health;
use super::session::Session;
use super::units::SIZES;
use super::{ConfigError, Evaluated, MAX_SOURCE_BYTES, Options, Source, did_you_mean};
use borg_proto::names::shorten;
use starlark::ErrorKind;
use starlark::codemap::FileSpan;
use starlark::environment::{FrozenModule, Globals, GlobalsBuilder, LibraryExtension, Module};
use starlark::eval::{Evaluator, FileLoader};
use starlark::syntax::{AstModule, Dialect};
use starlark::values::FrozenHeapName;
use std::collections::BTreeMap;
use std::path::Path;

/// Steps (calls and turns of loops) that one file may take. 1,000,000: our choice, well under a
/// second, and a hundred times what the largest configurations need.
const MAX_STEPS: u64 = 1_000_000;
/// Memory that one file's values may take in bytes. 64 MiB: our choice.
const MAX_HEAP_BYTES: usize = 64 << 20;
/// Calls within calls. 64: our choice; configuration has no need of recursion.
const MAX_CALL_DEPTH: usize = 64;
/// Files that one evaluation may load. 100: our choice.
const MAX_FILES: usize = 100;

/// Evaluates a file in this process.
pub(crate) fn evaluate(source: &Source, options: &Options) -> Result<Evaluated, ConfigError> {
    let session = Session::new(options.clone(), source.root.clone());
    let globals = globals(options);
    run(&session, &globals, &source.file, &source.root, &source.text)?;
    let asked = session.asked.into_inner();
    if let Some(unused) = options.args.keys().find(|name| !asked.contains(*name)) {
        let hint = match did_you_mean(unused, asked.iter().map(String::as_str)) {
            Some(guess) => format!("; did you mean {guess}?"),
            None if asked.is_empty() => "; it asks for none".into(),
            None => format!("; it asks for {}", asked.into_iter().collect::<Vec<_>>().join(", ")),
        };
        return Err(ConfigError::whole(
            &source.file,
            format!("does not ask for --arg {}{hint}", shorten(unused)),
        ));
    }
    let jobs = session.jobs.into_inner();
    if jobs.is_empty() {
        return Err(ConfigError::whole(&source.file, "has no job: call job(name = ..., ...)"));
    }
    Ok(Evaluated { jobs, printed: session.printed.into_inner() })
}

fn globals(options: &Options) -> Globals {
    let mut builder = GlobalsBuilder::extended_by(&[LibraryExtension::Print])
        .with(constructors)
        .with(health::constructors);
    for (name, bytes) in SIZES {
        builder.set(name, bytes);
    }
    builder.set("USER", options.user.as_str());
    builder.set("BORGCTL", options.borgctl.to_string_lossy().as_ref());
    builder.build()
}

fn dialect() -> Dialect {
    Dialect {
        enable_top_level_stmt: true,
        enable_f_strings: true,
        enable_keyword_only_arguments: true,
        ..Dialect::Standard
    }
}

/// Modules that the file's `load` statements name, loaded before it runs.
#[derive(Default)]
struct Loads(BTreeMap<String, FrozenModule>);

impl FileLoader for Loads {
    fn load(&self, path: &str) -> starlark::Result<FrozenModule> {
        Ok(self
            .0
            .get(path)
            .expect("every load statement of the file was answered before it ran")
            .clone())
    }
}

/// Runs one file to its end; `directory` is where its own relative loads begin.
fn run(
    session: &Session,
    globals: &Globals,
    file: &str,
    directory: &Path,
    text: &str,
) -> Result<FrozenModule, ConfigError> {
    let ast =
        AstModule::parse(file, text.to_owned(), &dialect()).map_err(|error| blame(file, &error))?;
    let mut loads = Loads::default();
    for load in ast.loads() {
        let module =
            load_file(session, globals, directory, load.module_id).map_err(
                |problem| match problem {
                    LoadProblem::Here(text) => at_span(&load.span, None, text),
                    LoadProblem::Inside(error) => error,
                },
            )?;
        loads.0.insert(load.module_id.to_owned(), module);
    }
    Module::with_temp_heap(|module| {
        {
            let mut eval = Evaluator::new(&module);
            eval.extra = Some(session);
            eval.set_loader(&loads);
            eval.set_print_handler(session);
            let set = eval
                .set_max_callstack_size(MAX_CALL_DEPTH)
                .and_then(|()| eval.set_max_heap_size(MAX_HEAP_BYTES))
                .and_then(|()| eval.set_max_tick_count(MAX_STEPS));
            set.expect("limits are over zero and set once");
            eval.eval_module(ast, globals).map_err(|error| blame(file, &error))?;
        }
        let name = FrozenHeapName::User(Box::new(file.to_owned()));
        module.freeze_named(name).map_err(|error| ConfigError::whole(file, format!("{error:?}")))
    })
}

enum LoadProblem {
    /// The load statement is wrong.
    Here(String),
    /// The loaded file is wrong.
    Inside(ConfigError),
}

/// Loads a file of the directory tree of the first one.
fn load_file(
    session: &Session,
    globals: &Globals,
    directory: &Path,
    name: &str,
) -> Result<FrozenModule, LoadProblem> {
    let here = |text: String| Err(LoadProblem::Here(text));
    let shown = shorten(name);
    let path = match name.strip_prefix("//") {
        Some(rest) => session.root.join(rest),
        None => directory.join(name),
    };
    if name.contains(':') || Path::new(name.trim_start_matches("//")).is_absolute() {
        return here(format!(
            "load {shown:?}: only files below the first one's directory, as in \"x.bcl\" or \"//dir/x.bcl\""
        ));
    }
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) => return here(format!("load {shown:?}: {error}")),
    };
    let Ok(relative) = path.strip_prefix(&session.root) else {
        return here(format!("load {shown:?}: lies outside the first file's directory"));
    };
    if let Some(module) = session.loaded.borrow().get(&path) {
        return Ok(module.clone());
    }
    let display = format!("//{}", relative.display());
    let (open, chain) = {
        let loading = session.loading.borrow();
        let chain: Vec<String> = loading.iter().map(|(_, name)| name.clone()).collect();
        (loading.iter().any(|(open, _)| *open == path), chain)
    };
    if open {
        return here(format!(
            "load {shown:?}: goes in a circle: {} -> {display}",
            chain.join(" -> ")
        ));
    }
    if session.loaded.borrow().len() + chain.len() >= MAX_FILES {
        return here(format!("load {shown:?}: more than {MAX_FILES} files"));
    }
    let text = read_loaded(&path, &display).map_err(LoadProblem::Inside)?;
    session.loading.borrow_mut().push((path.clone(), display.clone()));
    let outer = session.in_loaded_file.replace(true);
    let directory = path.parent().unwrap_or(&session.root);
    let module = run(session, globals, &display, directory, &text);
    session.in_loaded_file.set(outer);
    session.loading.borrow_mut().pop();
    let module = module.map_err(LoadProblem::Inside)?;
    session.loaded.borrow_mut().insert(path, module.clone());
    Ok(module)
}

fn read_loaded(path: &Path, display: &str) -> Result<String, ConfigError> {
    let bytes = super::read_file(path)
        .map_err(|error| ConfigError { file: display.to_owned(), ..error })?;
    debug_assert!(bytes.len() as u64 <= MAX_SOURCE_BYTES, "read_file refuses larger ones");
    String::from_utf8(bytes).map_err(|error| super::not_utf8(display, &error))
}

/// Starlark's error in our words, at the field's place when the field stands in the call.
fn blame(file: &str, error: &starlark::Error) -> ConfigError {
    let ours = match error.kind() {
        ErrorKind::Other(cause) | ErrorKind::Native(cause) => cause.downcast_ref::<FieldError>(),
        _ => None,
    };
    let field = ours.and_then(|error| error.field.as_deref());
    let text = match (ours, error.kind()) {
        (Some(error), _) => error.text.clone(),
        (None, ErrorKind::StackOverflow(_)) => {
            format!("calls are nested more than {MAX_CALL_DEPTH} deep: recursion without an end?")
        }
        (None, _) => in_our_words(&error.without_diagnostic().to_string()),
    };
    match error.span() {
        Some(span) => at_span(span, field, text),
        None => ConfigError::whole(file, text),
    }
}

/// Limits told by their numbers and what to look for.
fn in_our_words(text: &str) -> String {
    if text.contains("ticks has been exceeded") {
        return format!("takes more than {MAX_STEPS} steps: a loop without an end?");
    }
    if text.contains("Heap memory limit") {
        return format!("its values take more than {} MiB", MAX_HEAP_BYTES >> 20);
    }
    let text = text.strip_prefix("error: ").unwrap_or(text);
    text.lines().next().unwrap_or_default().chars().take(400).collect()
}

fn at_span(span: &FileSpan, field: Option<&str>, text: String) -> ConfigError {
    let source = span.file.source();
    let begin = span.resolve_span().begin;
    let (mut line, mut column) = (begin.line + 1, begin.column + 1);
    if let Some(at) = field.and_then(|field| find_field(span.source_span(), field)) {
        let before = &span.source_span()[..at];
        let breaks = before.matches('\n').count();
        line += breaks;
        column = match before.rsplit_once('\n') {
            Some((_, last)) => last.chars().count() + 1,
            None => column + before.chars().count(),
        };
    }
    ConfigError::at(span.filename(), source, line, column, text)
}

/// Where `field =` stands in the text of a call, if it does.
fn find_field(call: &str, field: &str) -> Option<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    call.match_indices(field).map(|(at, _)| at).find(|&at| {
        let after = call[at + field.len()..].trim_start();
        !call[..at].ends_with(is_word) && after.starts_with('=') && !after.starts_with("==")
    })
}
