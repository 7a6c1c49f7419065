// Package conformance names what critest is made of, so that go.mod and go.sum hold all of it. It has no code.
package conformance

import (
	// The suite's main is a test file of sigs.k8s.io/cri-tools/cmd/critest, which no package can import; these are its imports.
	_ "github.com/onsi/ginkgo/v2"
	_ "github.com/onsi/gomega"
	_ "sigs.k8s.io/cri-tools/pkg/benchmark"
	_ "sigs.k8s.io/cri-tools/pkg/common"
	_ "sigs.k8s.io/cri-tools/pkg/framework"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
	_ "sigs.k8s.io/cri-tools/pkg/version"
)
