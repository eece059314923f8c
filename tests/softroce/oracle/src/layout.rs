//! Sizes, offsets and constants, against `rdma-sys`.

use crate::Report;
use pagewire_transport::link::verbs::abi;
use std::mem::{align_of, offset_of, size_of};

/// What differs, as "what: ours, theirs".
struct Differences(Vec<String>);

impl Differences {
    fn note(&mut self, what: &str, ours: u64, theirs: u64) {
        if ours != theirs {
            self.0.push(format!("{what} is {ours} here, {theirs} in the headers"));
        }
    }

    fn result(self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0.join("; ")) }
    }
}

/// Compares size, alignment and the offsets of fields; a field that is called otherwise in
/// `rdma-sys` is given as `ours = theirs`.
macro_rules! same_layout {
    ($report:expr, $($name:ident { $($ours:ident $(= $($theirs:ident).+)?),* $(,)? })*) => {$({
        let mut found = Differences(Vec::new());
        found.note(
            "size",
            size_of::<abi::$name>() as u64,
            size_of::<rdma_sys::$name>() as u64,
        );
        found.note(
            "alignment",
            align_of::<abi::$name>() as u64,
            align_of::<rdma_sys::$name>() as u64,
        );
        $(found.note(
            stringify!($ours),
            offset_of!(abi::$name, $ours) as u64,
            same_layout!(@theirs $name $ours $(, $($theirs).+)?) as u64,
        );)*
        $report.result(concat!("layout_of_", stringify!($name)), found.result());
    })*};
    (@theirs $name:ident $ours:ident) => { offset_of!(rdma_sys::$name, $ours) };
    (@theirs $name:ident $ours:ident, $($theirs:ident).+) => {
        offset_of!(rdma_sys::$name, $($theirs).+)
    };
}

/// Compares constants: enumerations that `rdma-sys` has as modules of constants, as types with
/// constants (flags), or as a Rust enum.
macro_rules! same_constants {
    ($found:ident, $($form:ident $module:ident { $($name:ident),* $(,)? })*) => {$($(
        $found.note(
            stringify!($name),
            u64::from(abi::$name.value()),
            u64::from(same_constants!(@$form $module $name)),
        );
    )*)*};
    (@module $module:ident $name:ident) => { rdma_sys::$module::$name };
    (@flags $module:ident $name:ident) => { rdma_sys::$module::$name.0 };
    (@enumeration $module:ident $name:ident) => { rdma_sys::$module::$name as u32 };
}

/// Our constants have the types of the fields they go into.
trait Value {
    fn value(self) -> u32;
}

impl Value for u32 {
    fn value(self) -> u32 {
        self
    }
}

impl Value for i32 {
    fn value(self) -> u32 {
        self.unsigned_abs()
    }
}

pub(crate) fn compare(report: &mut Report) {
    structures(report);
    let mut found = Differences(Vec::new());
    constants(&mut found);
    report.result("constants", found.result());
}

fn structures(report: &mut Report) {
    same_layout!(report,
        ibv_device { _ops, node_type, transport_type, name, dev_name, dev_path, ibdev_path }
        ibv_context_ops {
            _compat_query_device, _compat_query_port, _compat_alloc_pd, _compat_dealloc_pd,
            _compat_reg_mr, _compat_rereg_mr, _compat_dereg_mr, alloc_mw, bind_mw, dealloc_mw,
            _compat_create_cq, poll_cq, req_notify_cq, _compat_cq_event, _compat_resize_cq,
            _compat_destroy_cq, _compat_create_srq, _compat_modify_srq, _compat_query_srq,
            _compat_destroy_srq, post_srq_recv, _compat_create_qp, _compat_query_qp,
            _compat_modify_qp, _compat_destroy_qp, post_send, post_recv, _compat_create_ah,
            _compat_destroy_ah, _compat_attach_mcast, _compat_detach_mcast, _compat_async_event,
        }
        ibv_context { device, ops, cmd_fd, async_fd, num_comp_vectors, mutex, abi_compat }
        ibv_device_attr {
            fw_ver, node_guid, sys_image_guid, max_mr_size, page_size_cap, vendor_id,
            vendor_part_id, hw_ver, max_qp, max_qp_wr, device_cap_flags, max_sge, max_sge_rd,
            max_cq, max_cqe, max_mr, max_pd, max_qp_rd_atom, max_ee_rd_atom, max_res_rd_atom,
            max_qp_init_rd_atom, max_ee_init_rd_atom, atomic_cap, max_ee, max_rdd, max_mw,
            max_raw_ipv6_qp, max_raw_ethy_qp, max_mcast_grp, max_mcast_qp_attach,
            max_total_mcast_qp_attach, max_ah, max_fmr, max_map_per_fmr, max_srq, max_srq_wr,
            max_srq_sge, max_pkeys, local_ca_ack_delay, phys_port_cnt,
        }
        ibv_gid { raw }
        ibv_gid_entry { gid, gid_index, port_num, gid_type, ndev_ifindex }
        ibv_pd { context, handle }
        ibv_mr { context, pd, addr, length, handle, lkey, rkey }
        ibv_comp_channel { context, fd, refcnt }
        ibv_cq {
            context, channel, cq_context, handle, cqe, mutex, cond, comp_events_completed,
            async_events_completed,
        }
        ibv_qp {
            context, qp_context, pd, send_cq, recv_cq, srq, handle, qp_num, state, qp_type, mutex,
            cond, events_completed,
        }
        ibv_qp_cap { max_send_wr, max_recv_wr, max_send_sge, max_recv_sge, max_inline_data }
        ibv_qp_init_attr { qp_context, send_cq, recv_cq, srq, cap, qp_type, sq_sig_all }
        ibv_global_route { dgid, flow_label, sgid_index, hop_limit, traffic_class }
        ibv_ah_attr { grh, dlid, sl, src_path_bits, static_rate, is_global, port_num }
        ibv_qp_attr {
            qp_state, cur_qp_state, path_mtu, path_mig_state, qkey, rq_psn, sq_psn, dest_qp_num,
            qp_access_flags, cap, ah_attr, alt_ah_attr, pkey_index, alt_pkey_index,
            en_sqd_async_notify, sq_draining, max_rd_atomic, max_dest_rd_atomic, min_rnr_timer,
            port_num, timeout, retry_cnt, rnr_retry, alt_port_num, alt_timeout, rate_limit,
        }
        ibv_sge { addr, length, lkey }
        ibv_send_wr {
            wr_id, next, sg_list, num_sge, opcode, send_flags,
            imm_data = imm_data_invalidated_rkey_union, rdma = wr, remote_srqn = qp_type,
            _bind_mw = bind_mw_tso_union,
        }
        ibv_recv_wr { wr_id, next, sg_list, num_sge }
        ibv_wc {
            wr_id, status, opcode, vendor_err, byte_len,
            imm_data = imm_data_invalidated_rkey_union, qp_num, src_qp, wc_flags, pkey_index,
            slid, sl, dlid_path_bits,
        }
        ibv_async_event { element, event_type }
    );
    // Newer headers append to this one, and the exported function does not fill what they append.
    let mut found = Differences(Vec::new());
    macro_rules! fields {
        ($($field:ident),*) => {$(found.note(
            stringify!($field),
            offset_of!(abi::ibv_port_attr, $field) as u64,
            offset_of!(rdma_sys::ibv_port_attr, $field) as u64,
        );)*};
    }
    fields!(
        state,
        max_mtu,
        active_mtu,
        gid_tbl_len,
        port_cap_flags,
        max_msg_sz,
        bad_pkey_cntr,
        qkey_viol_cntr,
        pkey_tbl_len,
        lid,
        sm_lid,
        lmc,
        max_vl_num,
        sm_sl,
        subnet_timeout,
        init_type_reply,
        active_width,
        active_speed,
        phys_state,
        link_layer,
        flags,
        port_cap_flags2
    );
    report.result("layout_of_ibv_port_attr", found.result());
    let mut found = Differences(Vec::new());
    found.note(
        "rdma.rkey",
        offset_of!(abi::ibv_send_wr_rdma, rkey) as u64,
        offset_of!(rdma_sys::rdma_t, rkey) as u64,
    );
    report.result("layout_of_ibv_send_wr_rdma", found.result());
}

fn constants(found: &mut Differences) {
    same_constants!(found,
        module ibv_port_state {
            IBV_PORT_DOWN, IBV_PORT_INIT, IBV_PORT_ARMED, IBV_PORT_ACTIVE, IBV_PORT_ACTIVE_DEFER,
        }
        module ibv_mtu { IBV_MTU_256, IBV_MTU_512, IBV_MTU_1024, IBV_MTU_2048, IBV_MTU_4096 }
        flags ibv_access_flags {
            IBV_ACCESS_LOCAL_WRITE, IBV_ACCESS_REMOTE_WRITE, IBV_ACCESS_REMOTE_READ,
        }
        module ibv_qp_type { IBV_QPT_RC }
        module ibv_qp_state { IBV_QPS_RESET, IBV_QPS_INIT, IBV_QPS_RTR, IBV_QPS_RTS, IBV_QPS_ERR }
        flags ibv_qp_attr_mask {
            IBV_QP_STATE, IBV_QP_ACCESS_FLAGS, IBV_QP_PKEY_INDEX, IBV_QP_PORT, IBV_QP_AV,
            IBV_QP_PATH_MTU, IBV_QP_TIMEOUT, IBV_QP_RETRY_CNT, IBV_QP_RNR_RETRY, IBV_QP_RQ_PSN,
            IBV_QP_MAX_QP_RD_ATOMIC, IBV_QP_MIN_RNR_TIMER, IBV_QP_SQ_PSN,
            IBV_QP_MAX_DEST_RD_ATOMIC, IBV_QP_DEST_QPN,
        }
        module ibv_wr_opcode { IBV_WR_SEND, IBV_WR_RDMA_READ }
        flags ibv_send_flags { IBV_SEND_SIGNALED, IBV_SEND_SOLICITED, IBV_SEND_INLINE }
        module ibv_wc_status {
            IBV_WC_SUCCESS, IBV_WC_LOC_LEN_ERR, IBV_WC_LOC_QP_OP_ERR, IBV_WC_LOC_EEC_OP_ERR,
            IBV_WC_LOC_PROT_ERR, IBV_WC_WR_FLUSH_ERR, IBV_WC_MW_BIND_ERR, IBV_WC_BAD_RESP_ERR,
            IBV_WC_LOC_ACCESS_ERR, IBV_WC_REM_INV_REQ_ERR, IBV_WC_REM_ACCESS_ERR,
            IBV_WC_REM_OP_ERR, IBV_WC_RETRY_EXC_ERR, IBV_WC_RNR_RETRY_EXC_ERR,
            IBV_WC_REM_ABORT_ERR, IBV_WC_FATAL_ERR, IBV_WC_RESP_TIMEOUT_ERR, IBV_WC_GENERAL_ERR,
        }
        enumeration ibv_event_type {
            IBV_EVENT_CQ_ERR, IBV_EVENT_QP_FATAL, IBV_EVENT_QP_REQ_ERR, IBV_EVENT_QP_ACCESS_ERR,
            IBV_EVENT_COMM_EST, IBV_EVENT_SQ_DRAINED, IBV_EVENT_PATH_MIG, IBV_EVENT_PATH_MIG_ERR,
            IBV_EVENT_DEVICE_FATAL, IBV_EVENT_PORT_ACTIVE, IBV_EVENT_PORT_ERR,
            IBV_EVENT_LID_CHANGE, IBV_EVENT_PKEY_CHANGE, IBV_EVENT_SM_CHANGE,
            IBV_EVENT_QP_LAST_WQE_REACHED, IBV_EVENT_CLIENT_REREGISTER, IBV_EVENT_GID_CHANGE,
        }
    );
    // It has no IBV_LINK_LAYER_* and no IBV_GID_TYPE_*: `peer` sees those at work.
}
