/*
 * libzfslinux-dev includes this header but does not ship it. Nothing in it is
 * used here.
 */
#ifndef CASK_DMU_COMPAT_ZFS_IOCTL_H
#define	CASK_DMU_COMPAT_ZFS_IOCTL_H
#endif
