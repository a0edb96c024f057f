//! Reading the object as the loader would: its programs, the functions that they call, and their stack.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ::object::read::{File, RelocationTarget};
use ::object::{Object as _, ObjectSection, ObjectSymbol, SymbolKind};
use anyhow::{Context, Result, bail, ensure};

use super::code::{self, Call};

/// Bytes of stack that a program and the functions below it may use together (`MAX_BPF_STACK`, linux/filter.h).
pub(super) const STACK_LIMIT: u32 = 512;

/// Where a function begins: number of the section, and offset.
type Place = (usize, u64);

/// A parsed object.
pub(super) struct Object<'data> {
    file: File<'data>,
    functions: BTreeMap<Place, Function>,
}

/// One function of the object.
struct Function {
    name: String,
    is_program: bool,
    instructions: u32,
    stack: u32,
    calls: BTreeSet<Place>,
}

/// What one program costs, as can be seen without loading it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cost {
    /// Its name.
    pub(super) program: String,
    /// Eight-byte instructions, those of the functions that it calls included.
    pub(super) instructions: u32,
    /// Bytes of stack along the deepest chain of calls.
    pub(super) stack: u32,
}

impl<'data> Object<'data> {
    /// Reads an ELF file.
    pub(super) fn parse(bytes: &'data [u8]) -> Result<Self> {
        let file = File::parse(bytes)?;
        let mut functions = BTreeMap::new();
        for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0) {
            let index = symbol.section_index().context("a function is in no section")?;
            let section = file.section_by_index(index)?;
            let name = symbol.name()?.to_owned();
            let code = section
                .data_range(symbol.address(), symbol.size())?
                .with_context(|| format!("function {name} reaches out of its section"))?;
            let scan = code::scan(code);
            let calls = targets(&file, &section, symbol.address(), &scan.calls)?;
            let function = Function {
                name,
                // Functions that programs call are in .text; each program has its kind's section.
                is_program: section.name()? != ".text",
                instructions: scan.instructions,
                stack: scan.stack,
                calls,
            };
            functions.insert((index.0, symbol.address()), function);
        }
        Ok(Self { file, functions })
    }

    /// A panic compiles to an endless loop, which the verifier refuses without saying where it came from.
    pub(super) fn refuse_panics(&self) -> Result<()> {
        let names: Vec<&str> = self
            .file
            .symbols()
            .filter_map(|symbol| symbol.name().ok())
            .filter(|name| name.contains("panic"))
            .collect();
        ensure!(
            names.is_empty(),
            "the object can panic, so it would not load: {} (cure: replace indexing, `expect` and the like in \
             lb-ebpf by `get` or by masked indices)",
            names.join(", ")
        );
        Ok(())
    }

    /// The cost of each program, by name.
    pub(super) fn costs(&self) -> Result<Vec<Cost>> {
        let mut costs = Vec::new();
        for (place, function) in self.functions.iter().filter(|(_, function)| function.is_program) {
            let mut seen = BTreeSet::new();
            let stack = self.descend(*place, &mut Vec::new(), &mut seen)?;
            let instructions =
                seen.iter().filter_map(|place| self.functions.get(place)).map(|f| f.instructions).sum();
            costs.push(Cost { program: function.name.clone(), instructions, stack });
        }
        ensure!(!costs.is_empty(), "the object holds no program");
        costs.sort_by(|a, b| a.program.cmp(&b.program));
        Ok(costs)
    }

    /// Stack along the deepest chain of calls from here; adds what it meets to `seen`.
    fn descend(&self, place: Place, path: &mut Vec<Place>, seen: &mut BTreeSet<Place>) -> Result<u32> {
        let function =
            self.functions.get(&place).with_context(|| format!("a call leads to no function: {place:?}"))?;
        if path.contains(&place) {
            bail!("function {} calls itself, which the verifier refuses", function.name);
        }
        path.push(place);
        seen.insert(place);
        let mut deepest = 0;
        for callee in &function.calls {
            deepest = deepest.max(self.descend(*callee, path, seen)?);
        }
        path.pop();
        Ok(function.stack + deepest)
    }
}

/// Where the calls of a function lead. Those into another section, and only those, have a relocation.
fn targets<'data, S: ObjectSection<'data>>(
    file: &File<'data>,
    section: &S,
    function: u64,
    calls: &[Call],
) -> Result<BTreeSet<Place>> {
    let relocations: HashMap<u64, RelocationTarget> =
        section.relocations().map(|(offset, relocation)| (offset, relocation.target())).collect();
    let mut places = BTreeSet::new();
    for call in calls {
        let at = function + call.at;
        let (index, base) = match relocations.get(&at) {
            Some(RelocationTarget::Symbol(symbol)) => {
                let symbol = file.symbol_by_index(*symbol)?;
                (symbol.section_index().context("a call leads to an unknown symbol")?, symbol.address())
            }
            Some(other) => bail!("a call has a relocation of an unknown kind: {other:?}"),
            // Relative to the instruction after the call.
            None => (section.index(), at + code::SIZE),
        };
        // With a relocation the count is from one before the symbol.
        let words = if relocations.contains_key(&at) { call.offset + 1 } else { call.offset };
        let target =
            base.checked_add_signed(words * code::SIZE.cast_signed()).context("a call leads nowhere")?;
        places.insert((index.0, target));
    }
    Ok(places)
}
