//! A device tree node by node, with what a node inherits from those above it.

use crate::bus::Bus;
use crate::properties::Properties;
use crate::tree::{DeviceTree, TokenKind};
use alloc::string::String;
use alloc::vec::Vec;

/// One node, all its properties read.
pub(crate) struct Node<'w, 'a> {
    /// The node's path; empty for the root.
    pub(crate) path: &'w str,
    /// Bytes of `path` that are the parent's.
    parent_length: usize,
    /// The properties that matter.
    pub(crate) properties: Properties<'a>,
    /// The buses from the root's own down to the one that the node lies on.
    pub(crate) buses: &'w [Bus<'a>],
}

impl<'w> Node<'w, '_> {
    /// Path of the parent; empty where that is the root, `None` for the root itself.
    pub(crate) fn parent(&self) -> Option<&'w str> {
        if self.path.is_empty() { None } else { self.path.get(..self.parent_length) }
    }

    /// Name of the node, with its unit address.
    pub(crate) fn name(&self) -> &'w str {
        self.path.get(self.parent_length + 1..).unwrap_or("")
    }
}

/// Calls `visit` for every node of `tree`, parents before children.
pub(crate) fn for_each_node<'a>(tree: &DeviceTree<'a>, mut visit: impl FnMut(&Node<'_, 'a>)) {
    let mut path = String::new();
    // Of each node above, the length of its path.
    let mut lengths: Vec<usize> = Vec::new();
    let mut buses = Vec::from([Bus::root()]);
    // The node whose properties are being read.
    let mut open: Option<Properties<'a>> = None;

    for token in tree.tokens() {
        if let (TokenKind::Property(name, value), Some(properties)) = (token.kind, &mut open) {
            properties.note(name, value);
            continue;
        }
        if let Some(properties) = open.take() {
            let parent_length = lengths.last().copied().unwrap_or(0);
            visit(&Node { path: &path, parent_length, properties, buses: &buses });
            buses.push(Bus::inside(&path, &properties));
            lengths.push(path.len());
        }
        match token.kind {
            TokenKind::Begin(name) => {
                if !lengths.is_empty() {
                    path.push('/');
                    path.push_str(core::str::from_utf8(name).unwrap_or(""));
                }
                open = Some(Properties::default());
            }
            TokenKind::End => {
                buses.pop();
                lengths.pop();
                path.truncate(lengths.last().copied().unwrap_or(0));
            }
            TokenKind::Property(..) => {}
        }
    }
}

/// The value of one property of the child `node_name` of the root.
pub(crate) fn top_property<'a>(tree: &DeviceTree<'a>, node_name: &str, name: &str) -> Option<&'a [u8]> {
    let mut depth = 0usize;
    let mut inside = false;
    for token in tree.tokens() {
        match token.kind {
            TokenKind::Begin(node) => {
                depth += 1;
                inside = depth == 2 && node == node_name.as_bytes();
            }
            TokenKind::Property(property, value) if inside && property == name.as_bytes() => return Some(value),
            TokenKind::Property(..) => {}
            TokenKind::End => depth = depth.saturating_sub(1),
        }
    }
    None
}
