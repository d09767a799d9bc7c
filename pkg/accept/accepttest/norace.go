//go:build !race

package accepttest

// raceDetector says that memory is no measure.
const raceDetector = false
