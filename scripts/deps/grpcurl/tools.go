//go:build tools

// Pins grpcurl, which the tests use to look at the service as a stranger would.
package tools

import _ "github.com/fullstorydev/grpcurl/cmd/grpcurl"
