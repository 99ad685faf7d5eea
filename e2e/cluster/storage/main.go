// A CSI driver for the test cluster: each volume is a sparse file of the node, attached as a loop device, and each
// snapshot is a copy of that file, made while the file system on it is frozen. So a snapshot is of one moment, as with a
// real disk. It serves the controller, the node and the kubelet's registration from one process, for one node.
//
// It must not know Kubernetes' objects: the sidecars beside it (csi-provisioner, csi-snapshotter) do.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const (
	driverName  = "disk.csi.stowaway.dev"
	smallest    = 16 << 20
	defaultSize = 1 << 30
)

func main() {
	endpoint := flag.String("endpoint", "", "socket of the driver")
	registry := flag.String("registry", "", "the kubelet's folder of registrations")
	folder := flag.String("folder", "", "where volumes and snapshots are kept")
	node := flag.String("node", "", "name of the node")
	flag.Parse()
	for _, name := range []string{"volumes", "snapshots"} {
		if err := os.MkdirAll(filepath.Join(*folder, name), 0o700); err != nil {
			log.Fatal(err)
		}
	}
	driver := &driver{folder: *folder, node: *node}
	server := grpc.NewServer(grpc.UnaryInterceptor(told))
	csi.RegisterIdentityServer(server, driver)
	csi.RegisterControllerServer(server, driver)
	csi.RegisterNodeServer(server, driver)
	register := grpc.NewServer(grpc.UnaryInterceptor(told))
	registration.RegisterRegistrationServer(register, &registrar{endpoint: *endpoint})
	go serve(server, *endpoint)
	// The kubelet calls as soon as it sees this socket.
	serve(register, filepath.Join(*registry, driverName+".sock"))
}

func serve(server *grpc.Server, socket string) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(server.Serve(listener))
}

// told logs each call that changes something, or fails.
func told(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	answer, err := handler(ctx, request)
	if err != nil || !strings.Contains(info.FullMethod, "Get") && !strings.Contains(info.FullMethod, "Probe") {
		log.Printf("%s %v: %v", info.FullMethod, request, err)
	}
	return answer, err
}

// registrar tells the kubelet where the driver is.
type registrar struct {
	registration.UnsafeRegistrationServer
	endpoint string
}

func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: driverName, Endpoint: r.endpoint, SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (r *registrar) NotifyRegistrationStatus(_ context.Context, told *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	log.Printf("registered: %v %s", told.PluginRegistered, told.Error)
	return &registration.RegistrationStatusResponse{}, nil
}

type driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
	folder string
	node   string
}

func (d *driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: driverName, VendorVersion: "1"}, nil
}

func (d *driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	service := &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE}
	capability := &csi.PluginCapability{Type: &csi.PluginCapability_Service_{Service: service}}
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{capability}}, nil
}

func (d *driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

// file is the file of a volume or a snapshot. Ids come back from objects that anybody may have written.
func (d *driver) file(kind, id string) (string, error) {
	if id == "" || id != filepath.Base(id) || strings.HasPrefix(id, ".") {
		return "", status.Errorf(codes.InvalidArgument, "%q is no id", id)
	}
	return filepath.Join(d.folder, kind, id), nil
}

// run runs a program, and fails with what it said.
func run(name string, arguments ...string) (string, error) {
	output, err := exec.Command(name, arguments...).CombinedOutput()
	text := strings.TrimSpace(string(output))
	if err != nil {
		return text, status.Errorf(codes.Internal, "%s %s: %v: %s", name, strings.Join(arguments, " "), err, text)
	}
	return text, nil
}

// copied makes one file of another; it gets its name when it is whole.
func copied(from, to string) error {
	part := to + ".part"
	if _, err := run("cp", "--sparse=always", from, part); err != nil {
		return err
	}
	return os.Rename(part, to)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func isMounted(path string) bool { return exec.Command("mountpoint", "--quiet", path).Run() == nil }

func isDevice(capability *csi.VolumeCapability) bool { return capability.GetBlock() != nil }

// loops are the loop devices of a file.
func loops(file string) ([]string, error) {
	found, err := run("losetup", "--noheadings", "--output", "NAME", "--associated", file)
	return strings.Fields(found), err
}

// size is the length of a file that exists.
func size(file string) (int64, error) {
	info, err := os.Stat(file)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// frozen works while nothing can be written to a file system.
func frozen(mount string, work func() error) error {
	if _, err := run("fsfreeze", "--freeze", mount); err != nil {
		return err
	}
	worked := work()
	_, thawed := run("fsfreeze", "--unfreeze", mount)
	return errors.Join(worked, thawed)
}

// mountOf is a place where the file's device is mounted; empty when there is none.
func mountOf(file string) (string, error) {
	devices, err := loops(file)
	if err != nil {
		return "", err
	}
	for _, device := range devices {
		// It fails when the device is mounted nowhere.
		if found, err := run("findmnt", "--noheadings", "--first-only", "--output", "TARGET", "--source", device); err == nil {
			return found, nil
		}
	}
	return "", nil
}

func notFound(kind, id string) error {
	return status.Error(codes.NotFound, fmt.Sprintf("there is no %s %s", kind, id))
}
