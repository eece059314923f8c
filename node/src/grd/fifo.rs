//! Many short queues in one pool, so that queueing allocates nothing once the pool has grown.

/// A queue whose items live in a [`FifoPool`]. Dropping it without emptying it leaks its nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fifo {
    /// Index + 1 of the first and last node; 0 for none.
    head: u32,
    tail: u32,
}

impl Fifo {
    pub(super) fn is_empty(self) -> bool {
        self.head == 0
    }
}

#[derive(Debug, Clone)]
struct Node<T> {
    item: Option<T>,
    next: u32,
}

/// The nodes of many queues.
#[derive(Debug, Clone)]
pub(super) struct FifoPool<T> {
    nodes: Vec<Node<T>>,
    free: u32,
}

impl<T> FifoPool<T> {
    pub(super) fn new() -> Self {
        Self { nodes: Vec::with_capacity(256), free: 0 }
    }

    fn node(&mut self, link: u32) -> &mut Node<T> {
        &mut self.nodes[link as usize - 1]
    }

    pub(super) fn push(&mut self, queue: &mut Fifo, item: T) {
        let link = if self.free == 0 {
            self.nodes.push(Node { item: Some(item), next: 0 });
            u32::try_from(self.nodes.len()).expect("fewer than 2^32 waiters")
        } else {
            let link = self.free;
            let node = self.node(link);
            let next = std::mem::replace(node, Node { item: Some(item), next: 0 }).next;
            self.free = next;
            link
        };
        if queue.head == 0 {
            queue.head = link;
        } else {
            self.node(queue.tail).next = link;
        }
        queue.tail = link;
    }

    pub(super) fn front(&self, queue: Fifo) -> Option<&T> {
        let index = (queue.head as usize).checked_sub(1)?;
        self.nodes[index].item.as_ref()
    }

    pub(super) fn pop(&mut self, queue: &mut Fifo) -> Option<T> {
        let link = queue.head;
        if link == 0 {
            return None;
        }
        let free = self.free;
        let node = self.node(link);
        let next = std::mem::replace(&mut node.next, free);
        let item = node.item.take();
        self.free = link;
        queue.head = next;
        if next == 0 {
            queue.tail = 0;
        }
        item
    }

    /// Takes the items that `wanted` is true for out of the queue; the others keep their order.
    pub(super) fn remove(&mut self, queue: &mut Fifo, wanted: impl Fn(&T) -> bool) -> usize {
        let mut kept = Fifo::default();
        let mut removed = 0;
        while let Some(item) = self.pop(queue) {
            if wanted(&item) {
                removed += 1;
            } else {
                self.push(&mut kept, item);
            }
        }
        *queue = kept;
        removed
    }

    /// Puts an item before all others.
    pub(super) fn push_front(&mut self, queue: &mut Fifo, item: T) {
        let mut rest = std::mem::take(queue);
        self.push(queue, item);
        while let Some(item) = self.pop(&mut rest) {
            self.push(queue, item);
        }
    }

    /// Takes the first item that `wanted` is true for out of the queue.
    pub(super) fn pop_first(&mut self, queue: &mut Fifo, wanted: impl Fn(&T) -> bool) -> Option<T> {
        let mut kept = Fifo::default();
        let mut found = None;
        while let Some(item) = self.pop(queue) {
            if found.is_none() && wanted(&item) {
                found = Some(item);
            } else {
                self.push(&mut kept, item);
            }
        }
        *queue = kept;
        found
    }

    pub(super) fn iter(&self, queue: Fifo) -> impl Iterator<Item = &T> {
        let mut link = queue.head;
        std::iter::from_fn(move || {
            let node = &self.nodes[(link as usize).checked_sub(1)?];
            link = node.next;
            node.item.as_ref()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_share_nodes_and_keep_their_own_order() {
        let mut pool = FifoPool::new();
        let (mut a, mut b) = (Fifo::default(), Fifo::default());
        for round in 0..3 {
            for i in 0..10 {
                pool.push(&mut a, i);
                pool.push(&mut b, 100 + i);
            }
            assert_eq!(pool.remove(&mut a, |i| i % 2 == 0), 5);
            assert_eq!(pool.iter(a).copied().collect::<Vec<_>>(), [1, 3, 5, 7, 9]);
            let drained: Vec<_> = std::iter::from_fn(|| pool.pop(&mut b)).collect();
            assert_eq!(drained, (100..110).collect::<Vec<_>>());
            while pool.pop(&mut a).is_some() {}
            assert!(a.is_empty() && b.is_empty() && pool.front(a).is_none());
            assert_eq!(pool.nodes.len(), 20, "round {round}");
        }
    }

    #[test]
    fn who_comes_when_others_have_gone_stands_behind_those_who_are_left() {
        let mut pool = FifoPool::new();
        let mut queue = Fifo::default();
        for i in 0..3 {
            pool.push(&mut queue, i);
        }
        assert_eq!(pool.pop(&mut queue), Some(0));
        pool.push(&mut queue, 3);
        assert_eq!(pool.iter(queue).copied().collect::<Vec<_>>(), [1, 2, 3]);
        while pool.pop(&mut queue).is_some() {}
        pool.push(&mut queue, 4);
        assert_eq!((pool.pop(&mut queue), pool.pop(&mut queue)), (Some(4), None));
    }
}
