// Package lun is the device server of SCSI disks: it executes commands on a
// block.Device (SPC-4, SBC-3). It knows no transport: a transport owns Tasks,
// brings their data and sends their outcome.
//
//	unit, err := lun.New(lun.Config{Device: dev, UUID: id})
//	m, err := lun.NewMap(lun.MapConfig{Port: port, Units: []lun.Mapping{{LUN: 0, Unit: unit}}})
//	nexus := m.Attach("iqn.2004-10.example:host,i,0x00023d000001")
//	task := lun.NewTask(done)
//	need, ok := task.Prepare(nexus, lun.Command{…}) // what data goes with it
//	task.Run(data)                                  // done(task) is called once
//
// # Order
//
// Tasks of a unit run in any order (QUEUE ALGORITHM MODIFIER 1), with three
// exceptions. A task with the ORDERED attribute, and every PERSISTENT RESERVE
// OUT and MODE SELECT, runs after all that came before it and before all that comes
// later. COMPARE AND WRITE and ORWRITE run beside nothing that changes their
// blocks. Reservations are checked when a task begins and again when its turn
// has come.
//
// # Concurrency
//
// Everything may be called from any goroutine; a Task belongs to its transport
// until Run, and again once done was called. done must not block. The package
// has no goroutines: tasks go on where the Device completes their requests.
//
// Lock order: Map.mu, Unit.mu, order.mu. None is held while a Device, a Keeper
// or done is called.
//
// # Bounds
//
// A Task holds at most the bytes its Need said. Registrations, ranges of an
// UNMAP and lengths are bounded by the constants of config.go.
package lun
