/* A Guest that computes for ever on KVM: one instruction, a jump to itself, in 32-bit protected mode.
 *
 * Only a signal to its thread gets the vCPU out. The handler does nothing: what comes just before the entry is lost,
 * so whoever signals goes on setting `immediate_exit` first, which KVM reads on entry.
 */
#include <linux/kvm.h>
#include <sys/ioctl.h>

enum { GUEST_SIZE = 0x10000, ENTRY = 0x1000 };

struct vcpu {
    int fd;
    struct kvm_run *run;
};

static void do_nothing(int signo)
{
    (void)signo;
}

static inline struct vcpu open_spinning_guest(void)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) {
        fprintf(stderr, "/dev/kvm: %s\n", strerror(errno));
        exit(CANNOT_RUN);
    }
    int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    must(vm >= 0, "KVM_CREATE_VM");
    unsigned char *memory = mmap(NULL, GUEST_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(memory != MAP_FAILED, "mmap");
    memcpy(memory + ENTRY, "\xeb\xfe", 2);
    struct kvm_userspace_memory_region slot = {.memory_size = GUEST_SIZE, .userspace_addr = (uintptr_t)memory};
    must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) == 0, "KVM_SET_USER_MEMORY_REGION");

    struct vcpu vcpu = {.fd = ioctl(vm, KVM_CREATE_VCPU, 0)};
    must(vcpu.fd >= 0, "KVM_CREATE_VCPU");
    vcpu.run = mmap(NULL, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.fd, 0);
    must(vcpu.run != MAP_FAILED, "mmap of the vCPU");
    struct kvm_sregs sregs;
    must(ioctl(vcpu.fd, KVM_GET_SREGS, &sregs) == 0, "KVM_GET_SREGS");
    struct kvm_segment code = {.limit = ~0u, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1};
    struct kvm_segment data = {.limit = ~0u, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
    sregs.cr0 |= 1;
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = data;
    must(ioctl(vcpu.fd, KVM_SET_SREGS, &sregs) == 0, "KVM_SET_SREGS");
    struct kvm_regs regs = {.rip = ENTRY, .rflags = 2};
    must(ioctl(vcpu.fd, KVM_SET_REGS, &regs) == 0, "KVM_SET_REGS");
    must(signal(SIGUSR1, do_nothing) != SIG_ERR, "signal");
    return vcpu;
}

/* Run the Guest until a signal comes; one that came before the entry has set `immediate_exit`. */
static inline void run_guest(struct vcpu *vcpu)
{
    must(ioctl(vcpu->fd, KVM_RUN, 0) < 0 && errno == EINTR, "KVM_RUN");
    vcpu->run->immediate_exit = 0;
}
