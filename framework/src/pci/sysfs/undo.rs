//! Putting a function back where it was after a move that failed.

use super::Roots;
use super::bind::Kernel;
use super::function::Function;
use super::read::printable;

/// Brings a function back to the driver that it had before, as far as the kernel lets it. Returns
/// where it is now, in words.
pub(super) fn put_back(roots: &Roots, before: &Function, kernel: &mut dyn Kernel) -> String {
    let address = before.address;
    let folder = roots.function(address);
    let now = match Function::read(roots, address) {
        Ok(now) => now,
        Err(error) => return format!("where it is now cannot be read: {error}"),
    };
    if (&now.driver, &now.driver_override) == (&before.driver, &before.driver_override) {
        return format!("nothing was changed, {} has it", printable(now.driver_name()));
    }
    // Each may fail; what counts is where the function is at the end.
    let only = before.driver_override.as_deref().unwrap_or_default();
    let mut attempts = vec![kernel.write(&folder.join("driver_override"), only)];
    if now.driver != before.driver {
        let name = address.to_string();
        if now.driver.is_some() {
            attempts.push(kernel.write(&folder.join("driver/unbind"), &name));
        }
        if let Some(driver) = &before.driver {
            let bind = roots.sys.join("bus/pci/drivers").join(driver).join("bind");
            attempts.push(kernel.write(&bind, &name));
        }
    }
    let trouble = attempts.into_iter().find_map(Result::err);
    let why = trouble.map_or_else(String::new, |error| format!(" ({error})"));
    match Function::read(roots, address) {
        Ok(now) if now.driver == before.driver && now.driver_override == before.driver_override => {
            format!("it is back as it was, {} has it", printable(now.driver_name()))
        }
        Ok(now) => format!(
            "putting it back to {} failed{why}, {} has it now",
            printable(before.driver_name()),
            printable(now.driver_name())
        ),
        Err(error) => format!("where it is now cannot be read: {error}"),
    }
}
