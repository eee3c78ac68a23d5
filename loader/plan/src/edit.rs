//! Rewriting a device tree: everything is copied as it stands, in one pass, but for the nodes and properties that an edit
//! names.

use crate::tree::{BEGIN_NODE, CELL, DeviceTree, END, END_NODE, HEADER_SIZE, MAGIC, PROPERTY, TokenKind};
use alloc::string::String;
use alloc::vec::Vec;

/// Version of the format that is written (Devicetree Specification, section 5.2).
const VERSION: u32 = 17;
/// Oldest version that a reader may implement.
const LAST_COMPATIBLE_VERSION: u32 = 16;
/// Bytes of an entry of the memory reservation block.
const RESERVATION_SIZE: usize = 16;
/// Room for what edits add, in bytes; more than that costs an allocation.
const ADDED_SIZE: usize = 4096;

/// What changes in one node.
#[derive(Clone, Debug, Default)]
struct NodeEdit {
    path: String,
    /// New value of each property, or `None` for one that goes.
    properties: Vec<(&'static str, Option<Vec<u8>>)>,
    /// The node goes, with all that is in it.
    removed: bool,
    /// The node is to be made where it does not exist.
    wanted: bool,
    /// The node exists.
    found: bool,
}

/// Changes to a device tree, collected and then made at once. Nodes are named by their full paths.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    nodes: Vec<NodeEdit>,
}

impl Edits {
    /// Sets a property of the node at `path`. Property, node and the nodes above it are made where they do not exist. Of
    /// several edits of one property the last counts.
    pub fn set(&mut self, path: &str, property: &'static str, value: &[u8]) {
        self.edit_property(path, property, Some(value.into()));
        let mut path = Some(path);
        while let Some(wanted) = path.filter(|path| !path.is_empty()) {
            self.edit(wanted, |node| node.wanted = true);
            path = wanted.rsplit_once('/').map(|(above, _)| above);
        }
    }

    /// Removes a property, where it exists.
    pub fn remove_property(&mut self, path: &str, property: &'static str) {
        self.edit_property(path, property, None);
    }

    /// Removes a node, where it exists, with all that is in it.
    pub fn remove_node(&mut self, path: &str) {
        self.edit(path, |node| node.removed = true);
    }

    fn edit_property(&mut self, path: &str, property: &'static str, value: Option<Vec<u8>>) {
        self.edit(path, |node| {
            node.properties.retain(|(name, _)| *name != property);
            node.properties.push((property, value));
        });
    }

    /// Changes the edit of the node at `path`.
    fn edit(&mut self, path: &str, change: impl FnOnce(&mut NodeEdit)) {
        match self.nodes.iter_mut().find(|node| node.path == path) {
            Some(node) => change(node),
            None => {
                let mut node = NodeEdit { path: path.into(), ..NodeEdit::default() };
                change(&mut node);
                self.nodes.push(node);
            }
        }
    }

    /// Emits `tree` with the changes made.
    pub fn apply(mut self, tree: &DeviceTree<'_>) -> Vec<u8> {
        let mut writer = Writer::new(tree);
        let mut path = String::new();
        let mut lengths: Vec<usize> = Vec::new();
        // The edit of the node whose properties are being copied.
        let mut current: Option<usize> = None;
        // How deep the copy is inside a node that goes; 0 outside.
        let mut skipped = 0usize;

        for token in tree.tokens() {
            match token.kind {
                TokenKind::Begin(_) | TokenKind::End if skipped > 0 => {
                    skipped = if token.kind == TokenKind::End { skipped - 1 } else { skipped + 1 };
                }
                TokenKind::Begin(name) => {
                    self.finish_properties(&mut current, &mut writer);
                    lengths.push(path.len());
                    if lengths.len() > 1 {
                        path.push('/');
                        path.push_str(core::str::from_utf8(name).unwrap_or(""));
                    }
                    current = self.nodes.iter().position(|node| node.path == path);
                    match current.and_then(|index| self.nodes.get_mut(index)) {
                        Some(edit) if edit.removed => {
                            skipped = 1;
                            current = None;
                            path.truncate(lengths.pop().unwrap_or(0));
                        }
                        edit => {
                            if let Some(edit) = edit {
                                edit.found = true;
                            }
                            writer.structure.extend_from_slice(token.raw);
                        }
                    }
                }
                TokenKind::Property(name, _) => {
                    let edit = current.and_then(|index| self.nodes.get(index));
                    let replaced =
                        edit.is_some_and(|edit| edit.properties.iter().any(|(new, _)| new.as_bytes() == name));
                    if skipped == 0 && !replaced {
                        writer.structure.extend_from_slice(token.raw);
                    }
                }
                TokenKind::End => {
                    self.finish_properties(&mut current, &mut writer);
                    self.make_children(&path, &mut writer);
                    writer.structure.extend_from_slice(token.raw);
                    path.truncate(lengths.pop().unwrap_or(0));
                }
            }
        }
        writer.finish(tree)
    }

    /// Writes the new properties of the node that was being copied.
    fn finish_properties(&self, current: &mut Option<usize>, writer: &mut Writer) {
        if let Some(edit) = current.take().and_then(|index| self.nodes.get(index)) {
            writer.properties(edit);
        }
    }

    /// Makes the nodes inside `parent` that edits want and that were not met.
    fn make_children(&self, parent: &str, writer: &mut Writer) {
        for edit in self.nodes.iter().filter(|edit| edit.wanted && !edit.found && !edit.removed) {
            let Some((_, name)) = edit.path.rsplit_once('/').filter(|(above, _)| *above == parent) else { continue };
            writer.begin(name);
            writer.properties(edit);
            self.make_children(&edit.path, writer);
            writer.word(END_NODE);
        }
    }
}

/// The device tree being written.
struct Writer {
    structure: Vec<u8>,
    strings: Vec<u8>,
    /// Names that were added to the strings, and where.
    added: Vec<(&'static str, u32)>,
}

impl Writer {
    fn new(tree: &DeviceTree<'_>) -> Self {
        let mut strings = Vec::with_capacity(tree.strings().len() + ADDED_SIZE);
        strings.extend_from_slice(tree.strings());
        Self { structure: Vec::with_capacity(tree.structure_size() + ADDED_SIZE), strings, added: Vec::new() }
    }

    fn word(&mut self, word: u32) {
        self.structure.extend_from_slice(&word.to_be_bytes());
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.structure.extend_from_slice(bytes);
        self.structure.resize(self.structure.len().next_multiple_of(CELL), 0);
    }

    fn begin(&mut self, name: &str) {
        self.word(BEGIN_NODE);
        self.structure.extend_from_slice(name.as_bytes());
        self.padded(&[0]);
    }

    fn properties(&mut self, edit: &NodeEdit) {
        for (name, value) in &edit.properties {
            let Some(value) = value else { continue };
            self.word(PROPERTY);
            self.word(value.len() as u32);
            let name = self.name(name);
            self.word(name);
            self.padded(value);
        }
    }

    /// Offset of `name` in the strings block.
    fn name(&mut self, name: &'static str) -> u32 {
        if let Some((_, offset)) = self.added.iter().find(|(added, _)| *added == name) {
            return *offset;
        }
        let offset = self.strings.len() as u32;
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        self.added.push((name, offset));
        offset
    }

    fn finish(mut self, tree: &DeviceTree<'_>) -> Vec<u8> {
        self.word(END);
        let reservations_at = HEADER_SIZE;
        let structure_at = reservations_at + (tree.reservations().len() + 1) * RESERVATION_SIZE;
        let strings_at = structure_at + self.structure.len();
        let size = strings_at + self.strings.len();
        let mut bytes = Vec::with_capacity(size);
        let header = [
            MAGIC as usize,
            size,
            structure_at,
            strings_at,
            reservations_at,
            VERSION as usize,
            LAST_COMPATIBLE_VERSION as usize,
            tree.boot_cpu() as usize,
            self.strings.len(),
            self.structure.len(),
        ];
        for field in header {
            bytes.extend_from_slice(&(field as u32).to_be_bytes());
        }
        for range in tree.reservations() {
            bytes.extend_from_slice(&range.start.raw().to_be_bytes());
            bytes.extend_from_slice(&range.size().to_be_bytes());
        }
        bytes.extend_from_slice(&[0; RESERVATION_SIZE]);
        bytes.extend_from_slice(&self.structure);
        bytes.extend_from_slice(&self.strings);
        bytes
    }
}
