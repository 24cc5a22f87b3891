//! Instances of vector bin packing with known results (`vectorpack/`, Vectorpack/experiments_vector_paper).
//!
//! A file has the number of dimensions, the bin's size in each, the number of items, and a line for each
//! item: its size in each dimension and how often it occurs. The published heuristics took the items in
//! an order of chance that is given by their number: first item `order[0]` of the file, and so on.

use crate::Error;
use borg_fauxmaster::sources::table::Table;
use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

/// Bins of one size, and items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The size of every bin, by dimension.
    pub bin: Vec<u64>,
    /// The items in the order of the file, each with as many dimensions. Some published instances have
    /// items of negative size in some dimension.
    pub items: Vec<Vec<i64>>,
}

/// Reads an instance.
///
/// # Errors
/// When the file is not in the format.
pub fn instance(path: &Path) -> Result<Instance, Error> {
    parse(&std::fs::read_to_string(path)?)
        .map_err(|wrong| format!("{}:{wrong}", path.display()).into())
}

/// Its error is `LINE: what is wrong`.
fn parse(text: &str) -> Result<Instance, String> {
    let mut lines = (1..).zip(text.lines());
    let mut next = || lines.next().ok_or("the file ends early");
    let (line, text) = next()?;
    let dimensions: usize = one(line, text)?;
    let (line, text) = next()?;
    let bin = numbers(line, text, dimensions)?;
    let (line, text) = next()?;
    let mut items = Vec::new();
    for _ in 0..one::<usize>(line, text)? {
        let (line, text) = next()?;
        let mut item: Vec<i64> = numbers(line, text, dimensions + 1)?;
        let times = item.pop().and_then(|times| usize::try_from(times).ok());
        let times = times.ok_or_else(|| format!("{line}: an item cannot occur less than never"))?;
        items.extend(std::iter::repeat_n(item, times));
    }
    Ok(Instance { bin, items })
}

fn one<T: FromStr + Copy>(line: usize, text: &str) -> Result<T, String> {
    Ok(numbers(line, text, 1)?[0])
}

fn numbers<T: FromStr>(line: usize, text: &str, fields: usize) -> Result<Vec<T>, String> {
    let mut numbers = Vec::new();
    for (n, field) in (1..).zip(text.split_whitespace()) {
        let number = field.parse();
        numbers.push(number.map_err(|_| format!("{line}: field {n}: {field:?} is no number"))?);
    }
    if numbers.len() == fields || fields == 0 {
        return Ok(numbers);
    }
    Err(format!("{line}: {} numbers where {fields} are expected", numbers.len()))
}

/// Orders of items, by how many items there are.
pub type Orders = BTreeMap<usize, Vec<usize>>;

/// Reads `shuf_orders.txt`: a line for each number of items, which comes first.
///
/// # Errors
/// When the file is not in the format.
pub fn orders(path: &Path) -> Result<Orders, Error> {
    let mut orders = Orders::new();
    for (line, text) in (1..).zip(std::fs::read_to_string(path)?.lines()) {
        let wrong = |wrong: String| format!("{}:{wrong}", path.display());
        let mut order: Vec<usize> = numbers(line, text, 0).map_err(wrong)?;
        if order.is_empty() {
            continue;
        }
        let count = order.remove(0);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..count) {
            return Err(wrong(format!("{line}: not an order of 0 to {count}")).into());
        }
        orders.insert(count, order);
    }
    Ok(orders)
}

/// Published numbers of bins of First Fit, by instance.
///
/// # Errors
/// When the file is not as published.
pub fn published_first_fit(path: &Path) -> Result<Vec<(String, usize)>, Error> {
    let table = Table::read(path, '\t')?;
    let (name, bins) = (table.column("instance_name")?, table.column("FF")?);
    let of = |row: borg_fauxmaster::sources::table::Row<'_>| {
        Ok((row.text(name).to_owned(), row.value(bins, "a number of bins")?))
    };
    table.rows().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_read_and_what_is_wrong_with_it_said() {
        let read = parse("2\n10 20\n2\n3 4 2\n5 6 1\n").unwrap();
        let expected =
            Instance { bin: vec![10, 20], items: vec![vec![3, 4], vec![3, 4], vec![5, 6]] };
        assert_eq!(read, expected);
        assert_eq!(parse("2\n10\n").unwrap_err(), "2: 1 numbers where 2 are expected");
        assert_eq!(parse("2\n10 x\n").unwrap_err(), "2: field 2: \"x\" is no number");
    }
}
