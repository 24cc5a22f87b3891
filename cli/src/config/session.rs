//! What one evaluation gathers: its jobs, and the pieces that constructors built.
//!
//! Starlark sees a piece as a handle with a number; the piece itself is typed data here.

#![expect(
    unsafe_code,
    unused_qualifications,
    reason = "ProvidesStaticType, by which Starlark hands the session to constructors, derives an unsafe marker"
)]

use super::Options;
use super::fields::FieldError;
use borg_proto::spec::{Constraint, Spread, Volume};
use borg_proto::{JobSpec, Resources, TaskSpec, UserName};
use starlark::PrintHandler;
use starlark::any::ProvidesStaticType;
use starlark::environment::FrozenModule;
use starlark::eval::Evaluator;
use starlark::values::structs::{AllocStruct, StructRef};
use starlark::values::{Heap, Value};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Jobs in one file. 1,000: our choice; each becomes a call of its own to a master.
const MAX_JOBS: usize = 1_000;
/// Pieces (tasks, resources, ...) that one evaluation may build. Ten for each job.
const MAX_PIECES: usize = 10 * MAX_JOBS;
/// Lines that one evaluation may print.
const MAX_PRINTED: usize = 1_000;

/// What a constructor built, before a job takes it.
#[derive(Debug, Clone)]
pub(super) enum Piece {
    Task(Box<TaskSpec>),
    Resources(Resources),
    Constraint(Constraint),
    Spread(Spread),
    Volume(Volume),
}

impl Piece {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Task(_) => "task",
            Self::Resources(_) => "resources",
            Self::Constraint(_) => "constraint",
            Self::Spread(_) => "spread",
            Self::Volume(_) => "volume",
        }
    }
}

/// One evaluation: shared by the file itself and all that it loads.
#[derive(Debug, ProvidesStaticType)]
pub(super) struct Session {
    options: Options,
    pub(super) root: PathBuf,
    pub(super) jobs: RefCell<Vec<JobSpec>>,
    pieces: RefCell<Vec<Piece>>,
    pub(super) printed: RefCell<Vec<String>>,
    pub(super) asked: RefCell<BTreeSet<String>>,
    pub(super) loaded: RefCell<BTreeMap<PathBuf, FrozenModule>>,
    /// Files being loaded, outermost first, as shown to people.
    pub(super) loading: RefCell<Vec<(PathBuf, String)>>,
    pub(super) in_loaded_file: Cell<bool>,
}

impl Session {
    pub(super) fn new(options: Options, root: PathBuf) -> Self {
        Self {
            options,
            root,
            jobs: RefCell::default(),
            pieces: RefCell::default(),
            printed: RefCell::default(),
            asked: RefCell::default(),
            loaded: RefCell::default(),
            loading: RefCell::default(),
            in_loaded_file: Cell::new(false),
        }
    }

    pub(super) fn of<'a>(eval: &Evaluator<'_, 'a, '_>) -> &'a Self {
        let extra: Option<&Self> = eval.extra.and_then(|extra| extra.downcast_ref());
        extra.expect("`run` puts the session into every evaluator")
    }

    pub(super) fn user(&self) -> &UserName {
        &self.options.user
    }

    pub(super) fn arg(&self, name: &str) -> Option<String> {
        self.asked.borrow_mut().insert(name.to_owned());
        self.options.args.get(name).cloned()
    }

    pub(super) fn may_add_job(&self) -> Result<(), FieldError> {
        if !self.in_loaded_file.get() {
            return Ok(());
        }
        let text = "job: a loaded file cannot add jobs itself: put job(...) into a function there and call it";
        Err(FieldError { field: None, text: text.into() })
    }

    pub(super) fn add_job(&self, job: JobSpec) -> Result<(), FieldError> {
        let mut jobs = self.jobs.borrow_mut();
        if jobs.iter().any(|earlier| earlier.name == job.name) {
            let text = format!("job.name: \"{}\" is there twice in this file", job.name);
            return Err(FieldError { field: Some("name".into()), text });
        }
        if jobs.len() >= MAX_JOBS {
            return Err(FieldError {
                field: None,
                text: format!("job: more than {MAX_JOBS} jobs in one file"),
            });
        }
        jobs.push(job);
        Ok(())
    }

    /// Keeps a piece and returns the value that stands for it in Starlark. `struct` is not among
    /// the language's functions here, so such a value cannot be forged.
    pub(super) fn keep<'v>(&self, piece: Piece, heap: Heap<'v>) -> Result<Value<'v>, FieldError> {
        let mut pieces = self.pieces.borrow_mut();
        let number = pieces.len();
        if number >= MAX_PIECES {
            let text = format!("{}: more than {MAX_PIECES} pieces in one evaluation", piece.kind());
            return Err(FieldError { field: None, text });
        }
        let handle =
            AllocStruct([("kind", heap.alloc(piece.kind())), ("number", heap.alloc(number))]);
        pieces.push(piece);
        Ok(heap.alloc(handle))
    }

    /// The piece that a value stands for.
    pub(super) fn piece<'v>(&self, value: Value<'v>, heap: Heap<'v>) -> Option<Piece> {
        StructRef::from_value(value)?;
        let number = value.get_attr("number", heap).ok()??.unpack_i32()?;
        self.pieces.borrow().get(usize::try_from(number).ok()?).cloned()
    }
}

impl PrintHandler for Session {
    fn println(&self, text: &str) -> starlark::Result<()> {
        let mut printed = self.printed.borrow_mut();
        if printed.len() < MAX_PRINTED {
            printed.push(text.chars().take(1_000).collect());
        }
        Ok(())
    }
}
