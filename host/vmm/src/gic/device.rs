//! The GIC's two register frames as devices on a guest's bus.

use super::Gic;
use crate::mmio::MmioDevice;

/// A way to a GIC that is shared: by its two devices, by the vCPUs' threads, and by devices that raise interrupts.
pub trait GicAccess {
    /// Calls `access` with the GIC, to which nobody else has access meanwhile, and then sees to the vCPUs that
    /// [`Gic::take_kicks`] names.
    fn with<R>(&self, access: impl FnOnce(&mut Gic) -> R) -> R;
}

/// The distributor, of [`GIC_DISTRIBUTOR_SIZE`](crate::layout::GIC_DISTRIBUTOR_SIZE) bytes.
#[derive(Clone, Debug)]
pub struct DistributorDevice<A>(pub A);

/// The redistributors of all vCPUs, of [`GIC_REDISTRIBUTOR_SIZE`](crate::layout::GIC_REDISTRIBUTOR_SIZE) bytes each.
#[derive(Clone, Debug)]
pub struct RedistributorDevice<A>(pub A);

impl<A: GicAccess> MmioDevice for DistributorDevice<A> {
    fn read(&mut self, offset: u64, width: u64) -> u64 {
        self.0.with(|gic| gic.read_distributor(offset, width))
    }

    fn write(&mut self, offset: u64, width: u64, value: u64) {
        self.0.with(|gic| gic.write_distributor(offset, width, value));
    }
}

impl<A: GicAccess> MmioDevice for RedistributorDevice<A> {
    fn read(&mut self, offset: u64, width: u64) -> u64 {
        self.0.with(|gic| gic.read_redistributor(offset, width))
    }

    fn write(&mut self, offset: u64, width: u64, value: u64) {
        self.0.with(|gic| gic.write_redistributor(offset, width, value));
    }
}
